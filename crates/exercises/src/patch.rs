//! Changes of a source as unified diffs, applied strictly: the old lines occur exactly once.
//!
//! Line numbers are not looked at, so that a change elsewhere in the source does not matter; and nothing is applied
//! to a place that only resembles the old lines, so that a change never lands where nobody meant it. `git apply`
//! takes the same files.

use similar::TextDiff;

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The text before the first `---`.
    pub preface: String,
    /// The file that it changes, relative to the checkout.
    pub path: String,
    hunks: Vec<Hunk>,
}

/// Lines that stand together, before and after, each with its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hunk {
    old: Vec<String>,
    new: Vec<String>,
}

impl Patch {
    /// Reads a unified diff of one file, with any text before it.
    ///
    /// # Errors
    ///
    /// A sentence that names the line, if it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let start = match text.starts_with("--- ") {
            true => 0,
            false => text.find("\n--- ").ok_or("it has no line `--- a/FILE`")? + 1,
        };
        let (preface, diff) = text.split_at(start);
        let mut lines = (preface.lines().count() + 1..).zip(diff.lines());
        let mut header = |sign: &str, side: &str| match lines.next() {
            Some((_, line)) if line.starts_with(sign) => {
                // git writes a/ and b/ before the path.
                let path = line[sign.len()..].trim_end();
                Ok(path.strip_prefix(side).unwrap_or(path).to_string())
            }
            other => Err(format!(
                "it has {:?} where `{sign}{side}FILE` belongs",
                other.map_or("", |(_, line)| line)
            )),
        };
        let (from, path) = (header("--- ", "a/")?, header("+++ ", "b/")?);
        if from != path {
            return Err(format!("it changes {from} into {path}: it has to name one file"));
        }
        let mut hunks: Vec<Hunk> = Vec::new();
        for (number, line) in lines {
            if line.starts_with("@@") {
                hunks.push(Hunk { old: Vec::new(), new: Vec::new() });
                continue;
            }
            let Some(hunk) = hunks.last_mut() else {
                return Err(format!("line {number} stands before the first `@@`: {line:?}"));
            };
            // An editor may have taken the blank from an empty line of context.
            let (sign, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
            let whole = format!("{rest}\n");
            match sign {
                " " => {
                    hunk.old.push(whole.clone());
                    hunk.new.push(whole);
                }
                "-" => hunk.old.push(whole),
                "+" => hunk.new.push(whole),
                _ => return Err(format!("line {number} begins with none of ` `, `-`, `+`, `@@`: {line:?}")),
            }
        }
        match hunks.iter().any(|hunk| hunk.old.is_empty()) || hunks.is_empty() {
            true => Err("it has no old lines, so nobody knows where it belongs".into()),
            false => Ok(Patch { preface: preface.to_string(), path, hunks }),
        }
    }

    /// The changed text.
    ///
    /// # Errors
    ///
    /// The old lines of a hunk occur more than once in `source`, or not at all, or two hunks change the same lines:
    /// a sentence that names the lines, the nearest ones in the second case.
    pub fn apply(&self, source: &str) -> Result<String, String> {
        let lines: Vec<&str> = source.split_inclusive('\n').collect();
        let mut places = Vec::new();
        for hunk in &self.hunks {
            places.push((self.place(hunk, &lines)?, hunk));
        }
        places.sort_by_key(|(at, _)| *at);
        let mut changed = String::new();
        let mut next = 0;
        for (at, hunk) in places {
            if at < next {
                return Err(format!("two of its hunks change line {} of {}", at + 1, self.path));
            }
            changed.extend(lines[next..at].iter().copied());
            changed.extend(hunk.new.iter().map(String::as_str));
            next = at + hunk.old.len();
        }
        changed.extend(lines[next..].iter().copied());
        Ok(changed)
    }

    /// Where the old lines of a hunk stand, as an index into `lines`.
    fn place(&self, hunk: &Hunk, lines: &[&str]) -> Result<usize, String> {
        let windows = || lines.windows(hunk.old.len()).enumerate();
        let found: Vec<usize> =
            windows().filter(|(_, window)| *window == hunk.old).map(|(at, _)| at).collect();
        match found[..] {
            [at] => Ok(at),
            [] => {
                let old: String = hunk.old.concat();
                // Most lines in their place; among equals, the one that is most alike.
                let alike = |window: &[&str]| {
                    let kept = window.iter().zip(&hunk.old).filter(|(now, old)| now == old).count();
                    (kept, TextDiff::from_lines(old.as_str(), window.concat()).ratio())
                };
                let nearest = windows().map(|(at, window)| (alike(window), at));
                let ((..), nearest) =
                    nearest.fold(((0, -1.0), 0), |best, one| if one.0 > best.0 { one } else { best });
                let differs = hunk.old.iter().zip(&lines[nearest.min(lines.len())..]);
                let differs = differs.enumerate().find(|(_, (old, now))| old != *now);
                Err(match differs {
                    Some((offset, (old, now))) => format!(
                        "the lines that it changes are no longer in {}: the nearest begin at line {}, where line {} is \
                         {:?} and no longer {:?}",
                        self.path,
                        nearest + 1,
                        nearest + offset + 1,
                        now.trim(),
                        old.trim()
                    ),
                    None => format!("{} has fewer lines than it changes", self.path),
                })
            }
            _ => {
                let numbers: Vec<String> = found.iter().map(|at| (at + 1).to_string()).collect();
                Err(format!(
                    "the lines that it changes stand in {} more than once, at lines {}: give it more lines around them",
                    self.path,
                    numbers.join(" and ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn a() {\n    one();\n    two();\n}\n\nfn b() {\n    one();\n    three();\n}\n";

    fn patch(hunks: &str) -> Patch {
        Patch::parse(&format!("Why.\n\n--- a/src/x.rs\n+++ b/src/x.rs\n{hunks}")).expect("a unified diff")
    }

    #[test]
    fn the_old_lines_are_replaced_wherever_they_stand() {
        let patch = patch(
            "@@ -90,2 +90,3 @@\n     one();\n-    three();\n+    3;\n+    4;\n@@ -1 +1 @@\n-fn a() {\n+fn c() {\n",
        );
        assert_eq!((patch.preface.as_str(), patch.path.as_str()), ("Why.\n\n", "src/x.rs"));
        let changed = patch.apply(SOURCE).expect("both places are there once");
        assert_eq!(
            changed,
            "fn c() {\n    one();\n    two();\n}\n\nfn b() {\n    one();\n    3;\n    4;\n}\n"
        );
    }

    #[test]
    fn lines_that_occur_twice_are_refused_with_both_places() {
        let why = patch("@@ -2 +2 @@\n-    one();\n+    1;\n").apply(SOURCE).expect_err("twice");
        assert!(why.contains("src/x.rs more than once, at lines 2 and 7"), "{why}");
    }

    #[test]
    fn drift_names_the_nearest_place() {
        let why = patch("@@ -6,3 +6,3 @@\n fn b() {\n-    one(1);\n+    1;\n     three();\n").apply(SOURCE);
        let why = why.expect_err("no such line");
        assert!(
            why.contains("begin at line 6, where line 7 is \"one();\" and no longer \"one(1);\""),
            "{why}"
        );
        // A window one line off holds as many of the old lines, but not in their place.
        let why = patch("@@ -1,4 +1,3 @@\n     one();\n-    two();\n }\n }\n")
            .apply(SOURCE)
            .expect_err("no such line");
        assert!(why.contains("nearest begin at line 2, where line 5 is \"\" and no longer \"}\""), "{why}");
        let why = patch("@@ -1 +1 @@\n-x\n+y\n").apply("").expect_err("nothing is there");
        assert!(why.contains("fewer lines"), "{why}");
    }

    #[test]
    fn two_hunks_never_change_the_same_line() {
        let why = patch("@@ -1 +1 @@\n-fn a() {\n+1\n@@ -1 +1 @@\n-fn a() {\n+2\n").apply(SOURCE);
        assert!(why.expect_err("twice the same").contains("line 1 of src/x.rs"));
    }

    #[test]
    fn what_is_no_diff_of_one_file_is_refused() {
        for (text, why) in [
            ("nothing", "no line `--- a/FILE`"),
            ("--- a/x\n", "where `+++ b/FILE` belongs"),
            ("--- a/x\n+++ b/y\n@@ -1 +1 @@\n-1\n", "x into y"),
            ("--- a/x\n+++ b/x\n-1\n", "line 3 stands before"),
            ("why\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n*2\n", "line 6 begins with none of"),
            ("--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+1\n", "no old lines"),
            ("--- a/x\n+++ b/x\n", "no old lines"),
        ] {
            let said = Patch::parse(text).expect_err(text);
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
