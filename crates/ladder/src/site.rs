//! `ladder docs --site`: the pages as mdBook reads them. A site is one folder, so whatever a page links to outside of `docs`
//! becomes a page too: a README as it is, a source as a listing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::contents::{CONTENTS, Contents, START};
use crate::failure::{Context, Result, failed};
use crate::names::pattern;

/// The folder of the pages.
const DOCS: &str = "docs";

/// Where the site keeps what lies outside of `docs`.
const SOURCES: &str = "source";

/// The page that lists them, and its title.
const LIST: &str = "source/index.md";
const LISTED: &str = "What the pages link to";

/// What mdBook reads beside the pages.
const SETTINGS: [&str; 2] = ["book.toml", "site.css"];

/// Writes mdBook's input into `folder`: the settings, and the pages in `folder/src`.
///
/// # Errors
/// A link that leads nowhere, or to a folder without a README.
pub fn write(root: &Path, folder: &Path) -> Result<()> {
    let contents = Contents::read(&root.join(DOCS))?;
    let mut site = Site { root, files: BTreeMap::new(), sources: BTreeSet::new() };
    let pages = contents.files().map(|file| Path::new(DOCS).join(file));
    for page in pages.chain([Path::new(DOCS).join(CONTENTS)]) {
        site.take_page(&page)?;
    }
    // A source that is a README links on.
    let mut taken = BTreeSet::new();
    while let Some(source) = site.sources.difference(&taken).next().cloned() {
        site.take_source(&source)?;
        taken.insert(source);
    }
    let table = site.table()?;
    site.files.insert(PathBuf::from(CONTENTS), table.into_bytes());
    let list = format!("# {LISTED}\n\n{}", site.list_of_sources("", SOURCES));
    site.files.insert(PathBuf::from(LIST), list.into_bytes());

    let pages = folder.join("src");
    if pages.exists() {
        fs::remove_dir_all(&pages).context(|| format!("remove the last site in {}", pages.display()))?;
    }
    for (file, text) in &site.files {
        put(&pages.join(file), text)?;
    }
    for file in SETTINGS {
        let text = fs::read(root.join(DOCS).join(file)).context(|| format!("read {DOCS}/{file}"))?;
        put(&folder.join(file), &text)?;
    }
    Ok(())
}

fn put(file: &Path, text: &[u8]) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
    }
    fs::write(file, text).context(|| format!("write {}", file.display()))
}

/// A site in the making. All paths are relative: those of the checkout to its top, those of the site to its pages.
struct Site<'a> {
    root: &'a Path,
    /// What the site holds.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// What is linked outside of `docs`.
    sources: BTreeSet<PathBuf>,
}

impl Site<'_> {
    fn read(&self, file: &Path) -> Result<String> {
        fs::read_to_string(self.root.join(file)).context(|| format!("read {}", file.display()))
    }

    fn take_page(&mut self, page: &Path) -> Result<()> {
        let text = self.read(page)?;
        let text = self.with_links(page, &text)?;
        self.files.insert(at(page), text.into_bytes());
        Ok(())
    }

    fn take_source(&mut self, source: &Path) -> Result<()> {
        if is(source, "md") {
            return self.take_page(source);
        }
        let text = self.read(source)?;
        let mut fence = "```".to_string();
        while text.contains(&fence) {
            fence.push('`');
        }
        let language = if is(source, "rs") { "rust" } else { "text" };
        let page = format!("# {}\n\n{fence}{language}\n{}\n{fence}\n", source.display(), text.trim_end());
        self.files.insert(at(source), page.into_bytes());
        Ok(())
    }

    /// A page with its links as they are on the site.
    fn with_links(&mut self, page: &Path, text: &str) -> Result<String> {
        // Code is left alone: what stands in backquotes, in a fence, or behind four blanks.
        static LINK: LazyLock<Regex> = LazyLock::new(|| pattern(r"`[^`]*`|\]\(([^)\s]+)\)"));
        let mut fence: Option<&str> = None;
        let mut out = String::new();
        for line in text.lines() {
            let mark = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
            let mut failure = None;
            match (fence, mark) {
                (Some(open), Some(mark)) if open == mark => fence = None,
                (None, Some(mark)) => fence = Some(mark),
                (None, None) if !line.starts_with("    ") => {
                    let line = LINK.replace_all(line, |found: &Captures| match found.get(1) {
                        None => found[0].to_string(),
                        Some(target) => match self.link(page, target.as_str()) {
                            Ok(link) => format!("]({link})"),
                            Err(error) => {
                                failure = Some(error);
                                String::new()
                            }
                        },
                    });
                    out.push_str(&line);
                    out.push('\n');
                    match failure {
                        Some(failure) => return Err(failure),
                        None => continue,
                    }
                }
                _ => {}
            }
            out.push_str(line);
            out.push('\n');
        }
        Ok(out)
    }

    /// Where a link of `page` leads on the site. What it leads to is taken along.
    fn link(&mut self, page: &Path, target: &str) -> Result<String> {
        if target.contains("://") || target.starts_with('#') {
            return Ok(target.to_string());
        }
        let (file, anchor) = target.split_at(target.find('#').unwrap_or(target.len()));
        let broken = |why: &str| failed(format!("{}: the link to {target} {why}", page.display()));
        let Some(mut to) = page.parent().and_then(|folder| below(folder, file)) else {
            return broken("leads out of the checkout");
        };
        if self.root.join(&to).is_dir() {
            to.push(START);
        }
        if !self.root.join(&to).is_file() {
            return broken("leads nowhere; a folder needs a README.md");
        }
        if !to.starts_with(DOCS) {
            self.sources.insert(to.clone());
        } else if !is(&to, "md") {
            let bytes = fs::read(self.root.join(&to)).context(|| format!("read {}", to.display()))?;
            self.files.insert(at(&to), bytes);
        }
        let up = at(page).components().count() - 1;
        Ok(format!("{}{}{anchor}", "../".repeat(up), at(&to).display()))
    }

    /// The table of contents for mdBook: the pages', with the table itself as a page, and the sources at the end.
    fn table(&self) -> Result<String> {
        let (start, contents) = (Path::new(DOCS).join(START), Path::new(DOCS).join(CONTENTS));
        let text = self.read(&contents)?;
        let Some((before, after)) = text.split_once(&format!("]({START})\n")) else {
            return failed(format!("{CONTENTS} does not begin with the start page: run `cargo ladder docs`"));
        };
        Ok(format!(
            "{before}]({})\n[Contents]({})\n{}\n\n# Sources\n\n- [{LISTED}]({LIST})\n{}",
            at(&start).display(),
            at(&contents).display(),
            after.trim_end(),
            self.list_of_sources("  ", "")
        ))
    }

    /// A line for each source, with its link as seen from `folder`.
    fn list_of_sources(&self, indent: &str, folder: &str) -> String {
        let line = |source: &PathBuf| {
            let to = at(source);
            let to = to.strip_prefix(folder).unwrap_or(&to);
            format!("{indent}- [{}]({})\n", source.display(), to.display())
        };
        self.sources.iter().map(line).collect()
    }
}

fn is(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|known| known == extension)
}

/// `file`, seen from `folder`, without `..`; `None` when it is not below the top.
fn below(folder: &Path, file: &str) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in folder.join(file).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// Where a file of the checkout stands on the site.
fn at(file: &Path) -> PathBuf {
    match file.strip_prefix(DOCS) {
        Ok(page) => at_docs(page),
        Err(_) if is(file, "md") => Path::new(SOURCES).join(file),
        Err(_) => Path::new(SOURCES).join(format!("{}.md", file.display())),
    }
}

/// The same for a file of `docs`: two of them have names of their own on a site.
fn at_docs(file: &Path) -> PathBuf {
    match file.to_str() {
        Some(START) => PathBuf::from("index.md"),
        Some(CONTENTS) => PathBuf::from("contents.md"),
        _ => file.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkout with one page, which holds `text`.
    fn checkout(text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let files = [
            ("docs/README.md", "# The start\n[Contents](SUMMARY.md)\n"),
            ("docs/10-page.md", text),
            (
                "docs/SUMMARY.md",
                "# Contents\n\n[The start](README.md)\n\n# Readiness\n\n- [Page](10-page.md)\n",
            ),
            ("docs/book.toml", ""),
            ("docs/site.css", ""),
            ("docs/pictures/loop.svg", "<svg/>"),
            ("crates/a/README.md", "# a\n[its source](src/lib.rs), [its page](../../docs/10-page.md#read)\n"),
            ("crates/a/src/lib.rs", "//! ```\n//! a();\n//! ```\n"),
        ];
        for (file, text) in files {
            put(&root.path().join(file), text.as_bytes()).expect("a file");
        }
        root
    }

    #[test]
    fn what_a_page_links_to_comes_along_and_code_is_left_alone() {
        let root = checkout(
            "# Page\n![loop](pictures/loop.svg) [`a`](../crates/a) [start](README.md#b) [far](https://docs.rs/mio)\n\
             `[c](none)`\n\n    [d](none)\n```\n[e](none)\n```\n",
        );
        let site = tempfile::tempdir().expect("a folder");
        write(root.path(), site.path()).expect("a site");
        let read = |file: &str| fs::read_to_string(site.path().join("src").join(file)).expect("a page");
        assert_eq!(
            read("10-page.md"),
            "# Page\n![loop](pictures/loop.svg) [`a`](source/crates/a/README.md) [start](index.md#b) \
             [far](https://docs.rs/mio)\n`[c](none)`\n\n    [d](none)\n```\n[e](none)\n```\n"
        );
        assert_eq!(
            read("source/crates/a/README.md"),
            "# a\n[its source](../../../source/crates/a/src/lib.rs.md), [its page](../../../10-page.md#read)\n"
        );
        assert_eq!(
            read("source/crates/a/src/lib.rs.md"),
            "# crates/a/src/lib.rs\n\n````rust\n//! ```\n//! a();\n//! ```\n````\n"
        );
        assert_eq!(read("pictures/loop.svg"), "<svg/>");
        assert_eq!(
            read("SUMMARY.md"),
            "# Contents\n\n[The start](index.md)\n[Contents](contents.md)\n\n# Readiness\n\n- [Page](10-page.md)\n\n\
             # Sources\n\n- [What the pages link to](source/index.md)\n  - [crates/a/README.md](source/crates/a/README.md)\n  \
             - [crates/a/src/lib.rs](source/crates/a/src/lib.rs.md)\n"
        );
        assert!(read("contents.md").contains("[Page](10-page.md)"));
        assert!(read("source/index.md").contains("[crates/a/src/lib.rs](crates/a/src/lib.rs.md)"));
    }

    #[test]
    fn a_link_that_would_lead_nowhere_is_named() {
        for target in ["none.md", "../../outside", "pictures", "/etc/hosts"] {
            let root = checkout(&format!("# Page\n[a]({target})\n"));
            let failure = write(root.path(), &root.path().join("site")).expect_err("a broken link");
            assert!(
                failure.to_string().contains(&format!("docs/10-page.md: the link to {target} ")),
                "{failure}"
            );
        }
    }
}
