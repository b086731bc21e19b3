//! `ladder timeline`: a recording as a picture in which system calls, polls and wakes stand in their order.
//!
//! A story becomes a [`model::Timeline`], is folded to a length that can be looked at, is laid out, and is drawn: with
//! characters, as SVG, as a page that is stepped with the keyboard, or as trace events for other tools.

mod fold;
mod label;
mod layout;
mod model;
mod svg;
mod text;

use std::fs;
use std::path::PathBuf;

use crate::checkout::{Checkout, Profile};
use crate::failure::{Context, Result, note, print};
use crate::record::{self, record};
use layout::Layout;
use model::Timeline;

/// Options of `ladder timeline`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Write the picture to this file, in place of drawing it with characters
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    #[command(flatten)]
    pub recorded: record::Options,
}

/// Runs `ladder timeline`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<()> {
    let pictures = draw(checkout, checkout.profile, options)?;
    if pictures.is_empty() { Ok(()) } else { write(pictures) }
}

fn draw(checkout: &Checkout, profile: Profile, options: &Options) -> Result<Vec<(PathBuf, String)>> {
    let story = record(checkout, profile, &options.recorded, None, false, false)?;
    let timeline = Timeline::of(&story, &options.recorded.title());
    let layout = Layout::of(&timeline, fold::fold(timeline.items.clone()));
    let mut files = Vec::new();
    if let Some(file) = &options.svg {
        files.push((file.clone(), svg::draw(&timeline, &layout, "", false)));
    }
    if files.is_empty() {
        print(&text::draw(&timeline, &layout));
    }
    Ok(files)
}

fn write(files: Vec<(PathBuf, String)>) -> Result<()> {
    for (file, text) in files {
        fs::write(&file, text).context(|| format!("write {}", file.display()))?;
        note(&format!("ladder: wrote {}", file.display()));
    }
    Ok(())
}

/// At most so many letters; what is cut ends in a mark.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.trim_end().to_string() + "…"
}
