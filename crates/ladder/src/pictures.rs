//! The files that recorded blocks draw, beside the text that shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::diff;
use crate::failure::{Context, Result, failed, note, print};
use crate::timeline;

/// Pictures by their files.
#[derive(Default)]
pub struct Pictures(BTreeMap<PathBuf, String>);

impl Pictures {
    /// Keeps a picture until all are drawn.
    pub fn add(&mut self, file: PathBuf, picture: String) -> Result<()> {
        match self.0.get(&file) {
            Some(known) if *known != picture => failed(format!(
                "another block draws another picture into {}: choose another name",
                file.display()
            )),
            _ => {
                self.0.insert(file, picture);
                Ok(())
            }
        }
    }

    /// Takes over those of another page.
    pub fn append(&mut self, others: Pictures) -> Result<()> {
        others.0.into_iter().try_for_each(|(file, picture)| self.add(file, picture))
    }

    /// Writes what differs.
    pub fn write(&self, root: &Path) -> Result<()> {
        for (file, picture) in self.0.iter().filter(|(file, picture)| !holds(file, picture)) {
            let name = name(root, file);
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
            }
            fs::write(file, picture).context(|| format!("write {name}"))?;
            note(&format!("ladder: {name} drawn anew"));
        }
        Ok(())
    }

    /// Shows what differs, and returns whether anything does.
    pub fn differ(&self, root: &Path) -> bool {
        let mut differ = false;
        for (file, picture) in self.0.iter().filter(|(file, picture)| !holds(file, picture)) {
            let name = name(root, file);
            let old = fs::read_to_string(file).unwrap_or_default();
            print(&diff::unified(&name, &format!("{name} (drawn now)"), &old, picture));
            differ = true;
        }
        differ
    }

    /// Pictures of ours in a folder that no block draws.
    pub fn orphans(&self, folder: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut orphans: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|file| !self.0.contains_key(file))
            .filter(|file| fs::read_to_string(file).is_ok_and(|text| text.contains(timeline::SIGNATURE)))
            .collect();
        orphans.sort();
        orphans
    }
}

fn holds(file: &Path, picture: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|old| old == picture)
}

/// A file as a reader names it.
pub fn name(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_ours_that_nobody_draws_is_an_orphan() {
        let folder = std::env::temp_dir().join(format!("ladder-pictures-{}", std::process::id()));
        let ours = |name: &str| (folder.join(name), format!("<svg>{}</svg>\n", timeline::SIGNATURE));
        let mut pictures = Pictures::default();
        for (file, picture) in [ours("shown.svg"), ours("other.svg")] {
            pictures.add(file, picture).expect("two names");
        }
        let (shown, picture) = ours("shown.svg");
        assert!(pictures.add(shown.clone(), picture).is_ok(), "two pages may show one picture");
        assert!(pictures.add(shown, "another".into()).is_err(), "and no two pictures have one name");
        assert!(pictures.differ(&folder), "they are not written yet");
        pictures.write(&folder).expect("a folder for temporary files");
        assert!(!pictures.differ(&folder));
        fs::write(folder.join("drawn-by-hand.svg"), "<svg></svg>").expect("a file");
        assert_eq!(pictures.orphans(&folder), Vec::<PathBuf>::new());
        let (lost, picture) = ours("lost.svg");
        fs::write(&lost, picture).expect("a file");
        assert_eq!(pictures.orphans(&folder), [lost]);
        let _ = fs::remove_dir_all(&folder);
    }
}
