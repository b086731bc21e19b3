//! Elsewhere than on Linux, one sentence takes the place of a heap of errors in the code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system != "linux" {
        println!(
            "cargo::error=these programs show the calls of Linux, which {system} does not have (epoll, eventfd, /proc, \
             strace): build them on Linux, for example in a virtual machine or in the container image `rust`"
        );
    }
}
