//! The version of act 3 that the borrow checker refuses is still refused, and for the reason on the page.

use std::fs;
use std::path::Path;

use harness::Launch;
use harness::demo::must;

/// rustc, which compiles a source of this edition, and writes nothing that can be run.
fn rustc(into: &Path) -> Launch {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let args = ["--edition", "2024", "--emit", "metadata", "--color", "never", "--out-dir"];
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Launch::new(rustc).args(args).args([into.display()]).in_folder(checkout)
}

/// Somewhere to compile to.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The version of the compiler that the tests are built with.
fn version() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = must(Launch::new(rustc).args(["--version"]).run()).stdout;
    version.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The file that the page takes the error from. `RECORD=1 cargo test -p jokes-acts --test refused` writes it.
#[test]
fn borrowed_lines_do_not_reach_the_pool() {
    let folder = folder();
    // The path is what a reader in the checkout sees.
    let refused = must(rustc(folder.path()).args(["crates/jokes/tests/refused/jokes-3-stream.rs"]).run());
    let said = refused.stderr;
    assert!(!refused.status.success(), "the refused version of act 3 compiles: the page is wrong");
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
    let folder = folder();
    let source = folder.path().join("jokes-3-accepted.rs");
    fs::write(&source, moved).expect("a temporary file");
    must(must(rustc(folder.path()).args([source.display()]).run()).expect_code(0));
}
