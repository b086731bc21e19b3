//! `ladder timeline`: a recording as a picture in which system calls, polls and wakes stand in their order.
//!
//! A story becomes a [`model::Timeline`], is folded to a length that can be looked at, is laid out, and is drawn: with
//! characters, as SVG, as a page that is stepped with the keyboard, or as trace events for other tools.

mod chrome;
mod fold;
mod html;
mod label;
mod layout;
mod model;
mod says;
mod svg;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use crate::breaks;
use crate::checkout::{Checkout, Profile};
use crate::failure::{Context, Result, note, print};
use crate::record::{self, Copy, record};
use crate::region::region;
use crate::story::Story;
use layout::Layout;
use model::Timeline;

/// What stands in every picture that is drawn here.
pub const SIGNATURE: &str = "<metadata>drawn by cargo ladder timeline</metadata>";

/// Options of `ladder timeline`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Write a picture to this file, in place of drawing with characters
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write one page that is stepped with the keyboard
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write trace events (JSON), for Perfetto and its kin
    #[arg(long, value_name = "FILE")]
    pub chrome: Option<PathBuf>,
    /// Show when things happened, in --html and --chrome; strace makes a program slower by far
    #[arg(long)]
    pub times: bool,
    /// The program as the change of this name breaks it; `cargo ladder break` names them all
    #[arg(long = "break", value_name = "NAME")]
    pub broken: Option<String>,
    #[command(flatten)]
    pub recorded: record::Options,
}

/// A recording, ready to be drawn.
pub struct Drawn {
    story: Story,
    timeline: Timeline,
    layout: Layout,
    sources: Vec<Source>,
}

/// A region of the program's source.
struct Source {
    region: &'static str,
    path: String,
    code: String,
}

/// Runs `ladder timeline`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<()> {
    let drawn = draw(checkout, checkout.profile, options)?;
    let files = [
        options.svg.as_ref().map(|file| (file, drawn.svg())),
        options.html.as_ref().map(|file| (file, drawn.html())),
        options.chrome.as_ref().map(|file| (file, drawn.chrome())),
    ];
    for (file, text) in files.iter().flatten() {
        fs::write(file, text).context(|| format!("write {}", file.display()))?;
        note(&format!("ladder: wrote {}", file.display()));
    }
    if files.iter().all(Option::is_none) {
        print(&drawn.text());
    }
    Ok(())
}

/// Records what the options name, folds it and lays it out.
pub fn draw(checkout: &Checkout, profile: Profile, options: &Options) -> Result<Drawn> {
    let broken = options.broken.as_ref().map(|name| breaks::built(checkout, name)).transpose()?;
    let copy = broken
        .as_ref()
        .map(|broken| Copy { program: broken.change.program.name.clone(), binary: broken.binary.clone() });
    let (title, source) = match (&broken, options.recorded.program.first()) {
        (Some(broken), _) => (
            format!("{}, broken", broken.change.program.name),
            Some((broken.change.program.source.clone(), broken.source.clone())),
        ),
        (None, Some(name)) => {
            let source = &checkout.program(name)?.source;
            (options.recorded.title(), Some((source.clone(), checkout.root.join(source))))
        }
        (None, None) => (options.recorded.title(), None),
    };
    let story = record(checkout, profile, &options.recorded, copy.as_ref(), false, options.times)?;
    let timeline = Timeline::of(&story, &title);
    let layout = Layout::of(&timeline, fold::fold(timeline.items.clone()));
    let sources = source.map_or_else(Vec::new, |(path, file)| regions(&path, &file));
    Ok(Drawn { story, timeline, layout, sources })
}

impl Drawn {
    /// With characters, for eighty columns.
    pub fn text(&self) -> String {
        text::draw(&self.timeline, &self.layout)
    }

    /// As a picture.
    pub fn svg(&self) -> String {
        svg::draw(&self.timeline, &self.layout, &says::summary(&self.timeline, &self.layout), None)
    }

    /// As one page.
    pub fn html(&self) -> String {
        html::draw(&self.story, &self.timeline, &self.layout, &self.sources)
    }

    /// As trace events.
    pub fn chrome(&self) -> String {
        chrome::draw(&self.timeline)
    }
}

/// Those regions that calls are mapped to, as far as the source has them.
fn regions(path: &str, file: &Path) -> Vec<Source> {
    let Ok(text) = fs::read_to_string(file) else { return Vec::new() };
    let found = ["wait", "receive", "flush"].into_iter().filter_map(|name| {
        Some(Source { region: name, path: path.to_string(), code: region(path, &text, name).ok()? })
    });
    found.collect()
}

/// At most so many letters; what is cut ends in a mark.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.trim_end().to_string() + "…"
}
