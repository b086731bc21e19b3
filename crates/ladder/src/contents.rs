//! The order of the pages: their numbers give it, and their first lines the titles. The table of contents and the links at
//! the foot of each page are made from them. The table reads on a code host, and is what mdBook wants: a title, the start
//! page, and then a heading for each part.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Result, failed};

/// The table of contents, in the folder of the pages.
pub const CONTENTS: &str = "SUMMARY.md";

/// The page before all others. A code host shows it with the folder, and a site begins with it.
pub const START: &str = "README.md";

/// What the first digit of a page's number means: it is that of the crate's folder.
const CHAPTERS: [&str; 10] = [
    "Why",
    "Readiness",
    "mio",
    "Futures",
    "tokio",
    "Sideways",
    "What goes wrong",
    "The jokes server",
    "The load generator",
    "Appendices",
];

/// Pages without a number, behind all others.
const LAST: [&str; 2] = ["CONTRIBUTING.md", "CHANGELOG.md"];

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Name of its file, without the folder.
    file: String,
    /// Its first line, without the `# `.
    title: String,
    /// Index into `CHAPTERS`; `None` for a page without a number.
    chapter: Option<usize>,
}

impl Entry {
    /// What stands above its chapter.
    fn heading(&self) -> &'static str {
        self.chapter.and_then(|chapter| CHAPTERS.get(chapter)).unwrap_or(&"About the project")
    }
}

/// The pages of a folder, in reading order.
#[derive(Debug)]
pub struct Contents(Vec<Entry>);

impl Contents {
    /// Reads the pages of `folder`: the start page, those whose names begin with a number, in its order, and then the few that
    /// have none.
    ///
    /// # Errors
    /// A page that does not begin with a title; two pages of one number.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .context(|| format!("read {}", folder.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
            .collect();
        files.sort();
        let mut start = Vec::new();
        let mut numbered = Vec::new();
        let mut last = Vec::new();
        for path in files {
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let digits = file.split('-').next().filter(|digits| digits.len() == 2);
            let number: Option<usize> = digits.and_then(|digits| digits.parse().ok());
            let entries = match number {
                Some(_) => &mut numbered,
                None if file == START => &mut start,
                None if LAST.contains(&file.as_str()) => &mut last,
                None => continue,
            };
            let text = fs::read_to_string(&path).context(|| format!("read {file}"))?;
            let Some(title) = text.lines().find_map(|line| line.strip_prefix("# ")) else {
                return failed(format!("{file} has no title: begin it with a line `# TITLE`"));
            };
            entries.push(Entry { file, title: title.to_string(), chapter: number.map(|number| number / 10) });
        }
        for pair in numbered.windows(2) {
            if pair[0].file[..2] == pair[1].file[..2] {
                return failed(format!(
                    "{} and {} have one number: renumber one",
                    pair[0].file, pair[1].file
                ));
            }
        }
        last.sort_by_key(|entry| LAST.iter().position(|file| *file == entry.file));
        Ok(Self([start, numbered, last].concat()))
    }

    /// The files in their order, without the folder.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.file.as_str())
    }

    /// The chapter and the title of the page that is the `place`th of [`files`](Self::files).
    pub fn place(&self, place: usize) -> (&'static str, &str) {
        let entry = &self.0[place];
        (entry.heading(), &entry.title)
    }

    /// The table: a heading a chapter, a line a page.
    pub fn table(&self) -> String {
        let mut out = "\n# Contents\n".to_string();
        // No chapter yet, which is not the same as the chapter of the pages without a number.
        let mut last = None;
        for entry in &self.0 {
            if entry.file == START {
                out.push_str(&format!("\n[{}]({START})\n", entry.title));
                continue;
            }
            if last != Some(entry.chapter) {
                last = Some(entry.chapter);
                out.push_str(&format!("\n# {}\n\n", entry.heading()));
            }
            out.push_str(&format!("- [{}]({})\n", entry.title, entry.file));
        }
        out.push('\n');
        out
    }

    /// The line at the foot of a page: the page before it, the table, the page behind it.
    ///
    /// # Errors
    /// The page is none of these.
    pub fn links(&self, page: &Path) -> Result<String> {
        let file = page.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let Some(place) = self.0.iter().position(|entry| entry.file == file) else {
            return failed(format!("{file} stands in no chapter: give its name a number of two digits"));
        };
        let link = |entry: &Entry| format!("[{}]({})", entry.title, entry.file);
        let mut parts = Vec::new();
        if let Some(before) = place.checked_sub(1).and_then(|place| self.0.get(place)) {
            parts.push(format!("Previous: {}", link(before)));
        }
        parts.push(format!("[Contents]({CONTENTS})"));
        if let Some(after) = self.0.get(place + 1) {
            parts.push(format!("Next: {}", link(after)));
        }
        Ok(format!("\n*{}*\n\n", parts.join(" · ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(pages: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in pages {
            fs::write(folder.path().join(file), text).expect("a page");
        }
        folder
    }

    #[test]
    fn pages_stand_in_the_order_of_their_numbers() {
        let folder = folder(&[
            ("20-mio.md", "# mio\n"),
            ("10-first.md", "# How?\ntext\n"),
            ("00-why.md", "<!-- a comment -->\n# Why?\n"),
            ("CHANGELOG.md", "# Changelog\n"),
            ("SUMMARY.md", "# old\n"),
            ("README.md", "# The start\n"),
            ("10-figures.txt", "no page"),
        ]);
        let contents = Contents::read(folder.path()).expect("a table");
        assert_eq!(
            contents.table(),
            "\n# Contents\n\n[The start](README.md)\n\n# Why\n\n- [Why?](00-why.md)\n\n# Readiness\n\n- [How?](10-first.md)\n\n# mio\n\n- [mio](20-mio.md)\n\n\
             # About the project\n\n- [Changelog](CHANGELOG.md)\n\n"
        );
        let links = |page: &str| contents.links(Path::new(page)).expect("links");
        assert_eq!(
            links("docs/00-why.md"),
            "\n*Previous: [The start](README.md) · [Contents](SUMMARY.md) · Next: [How?](10-first.md)*\n\n"
        );
        assert_eq!(links("README.md"), "\n*[Contents](SUMMARY.md) · Next: [Why?](00-why.md)*\n\n");
        assert_eq!(
            links("10-first.md"),
            "\n*Previous: [Why?](00-why.md) · [Contents](SUMMARY.md) · Next: [mio](20-mio.md)*\n\n"
        );
        assert_eq!(links("CHANGELOG.md"), "\n*Previous: [mio](20-mio.md) · [Contents](SUMMARY.md)*\n\n");
        assert!(contents.links(Path::new("notes.md")).is_err());
    }

    #[test]
    fn a_page_has_a_title_and_a_number_of_its_own() {
        assert!(Contents::read(folder(&[("10-a.md", "text\n")]).path()).is_err());
        assert!(Contents::read(folder(&[("10-a.md", "# A\n"), ("10-b.md", "# B\n")]).path()).is_err());
    }
}
