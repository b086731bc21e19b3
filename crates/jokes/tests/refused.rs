//! The version of act 3 that the borrow checker refuses is still refused, and for the reason on the page.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Compiles the refused version; what rustc says, with the path as a reader in the checkout sees it.
fn rustc() -> (bool, String) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let metadata = std::env::temp_dir().join(format!("jokes-3-refused-{}", std::process::id()));
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "--emit", "metadata", "--color", "never", "-o"])
        .arg(&metadata)
        .arg("crates/jokes/tests/refused/jokes-3-stream.rs")
        .current_dir(checkout)
        .output()
        .expect("whoever runs cargo has rustc");
    // It is there only if the compilation went well, which it must not.
    let _ = fs::remove_file(metadata);
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The version of the compiler that the tests are built with.
fn version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("whoever runs cargo has rustc");
    String::from_utf8_lossy(&output.stdout).split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The file that the page takes the error from. `RECORD=1 cargo test -p jokes-acts --test refused` writes it.
#[test]
fn borrowed_lines_do_not_reach_the_pool() {
    let (compiled, said) = rustc();
    assert!(!compiled, "the refused version of act 3 compiles: the page is wrong");
    assert!(said.contains("error[E0521]: borrowed data escapes outside of method"), "{said}");
    assert!(said.contains("must outlive `'static`"), "{said}");
    assert_eq!(said.matches("error[").count(), 1, "it is refused for one reason only: {said}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused/jokes-3-stream.stderr");
    let version = version();
    let recorded = format!("{version}\n// region: error\n{}\n// endregion: error\n", said.trim_end());
    if std::env::var_os("RECORD").is_some() {
        fs::write(&path, &recorded).expect("recorded");
    }
    let page = fs::read_to_string(&path).expect("an error is recorded");
    // Another version of the compiler may say the same in other words.
    if page.lines().next() == Some(&version) {
        assert_eq!(page, recorded, "record it anew: RECORD=1 cargo test -p jokes-acts --test refused");
    }
}

/// What makes the difference: the same with the lines moved there and back, as act 3 has it, compiles.
#[test]
fn the_reason_is_the_borrow_alone() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused/jokes-3-stream.rs");
    let text = fs::read_to_string(path).expect("the refused version");
    let moved = text
        .replace(
            "fn next(&mut self) -> thread::JoinHandle<Option<io::Result<String>>>",
            "fn next(mut self) -> thread::JoinHandle<Option<(io::Result<String>, Self)>>",
        )
        .replace("|| self.lines.next()", "move || self.lines.next().map(|line| (line, self))")
        .replace("stream.next().join()", "stream.next().join().map(|next| next.map(|(line, _)| line))")
        .replace("let mut stream", "let stream");
    let folder = std::env::temp_dir();
    let source = folder.join(format!("jokes-3-accepted-{}.rs", std::process::id()));
    fs::write(&source, moved).expect("a temporary file");
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "--emit", "metadata", "-o"])
        .arg(source.with_extension("rmeta"))
        .arg(&source)
        .output()
        .expect("whoever runs cargo has rustc");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for path in [source.with_extension("rmeta"), source] {
        fs::remove_file(path).expect("it was written");
    }
}
