//! `ladder list`: the ladder as a table, read from the headers of the programs.

use serde::Serialize;

use crate::checkout::{Checkout, Program};
use crate::counts::{self, Row, per_datagram};
use crate::failure::{Result, failed, print};
use crate::server::Target;
use crate::table::Table;

/// Options of `ladder list`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Only the echo servers
    #[arg(long)]
    pub echo: bool,
    /// Count the system calls per datagram, sent one at a time, of the echo servers (needs strace)
    #[arg(long)]
    pub calls: bool,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print the table of the README: the echo servers, their calls, and links
    #[arg(long, conflicts_with_all = ["json", "markdown"])]
    pub readme: bool,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// One program, as `--json` prints it.
#[derive(Serialize)]
struct Entry<'a> {
    rung: Option<u32>,
    program: &'a str,
    about: &'a str,
    waits_in: Option<&'a str>,
    new_idea: &'a str,
    symptom: Option<&'a str>,
    /// Only with `--calls`, and only of echo servers.
    calls_per_datagram: Option<f64>,
    lines: usize,
    layer: &'a str,
    source: &'a str,
    page: Option<&'a str>,
}

/// Runs `ladder list`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<()> {
    let programs: Vec<&Program> =
        checkout.programs.iter().filter(|program| program.is_echo() || !options.echo).collect();
    let rows = if options.calls || options.readme {
        let echoes = programs.iter().filter(|program| program.is_echo());
        let targets: Vec<Target> = echoes.map(|program| Target::Own((*program).clone())).collect();
        counts::measure(checkout, checkout.profile, &targets)?
    } else {
        Vec::new()
    };
    if options.readme {
        print(&ladder_table(checkout, &rows, ""));
        return Ok(());
    }
    if options.json {
        let entries: Vec<Entry> = programs.iter().map(|program| entry(program, &rows)).collect();
        match serde_json::to_string(&entries) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => return failed(format!("could not write JSON: {error}")),
        }
        return Ok(());
    }
    let mut header = vec!["rung", "program", "waits in", "new idea", "lines"];
    if options.calls {
        header.insert(4, "calls/datagram");
    }
    let mut table = Table::new(header, 4);
    for program in programs {
        let mut cells = vec![
            program.rung.map_or_else(|| "-".into(), |rung| rung.to_string()),
            program.name.clone(),
            program.waits_in.clone().unwrap_or_else(|| "-".into()),
            idea(program).to_string(),
            program.lines.to_string(),
        ];
        if options.calls {
            cells.insert(4, calls(program, &rows));
        }
        table.row(cells);
    }
    print(&if options.markdown { table.markdown() } else { table.text() });
    Ok(())
}

/// The table of the README: the echo servers with links to their pages and sources. `to_root` leads from the
/// page to the top of the checkout (`""` or `"../"`).
pub fn ladder_table(checkout: &Checkout, rows: &[Row], to_root: &str) -> String {
    let mut table = Table::new(["rung", "waits in", "new idea", "calls per datagram", "lines"], 3);
    for program in checkout.programs.iter().filter(|program| program.is_echo()) {
        let name = match &program.page {
            Some(page) => format!("[{}]({to_root}{page})", program.name),
            None => program.name.clone(),
        };
        table.row([
            name,
            program.waits_in.clone().unwrap_or_else(|| "-".into()),
            idea(program).to_string(),
            calls(program, rows),
            format!("[{}]({to_root}{})", program.lines, program.source),
        ]);
    }
    table.markdown()
}

/// A demo without a `New here:` is told by what it is.
fn idea(program: &Program) -> &str {
    if program.new_here.is_empty() { &program.about } else { &program.new_here }
}

fn calls(program: &Program, rows: &[Row]) -> String {
    let row = rows.iter().find(|row| row.program == program.name);
    row.map_or_else(|| "-".into(), |row| per_datagram(row.one_at_a_time.total(), row.one_at_a_time.datagrams))
}

fn entry<'a>(program: &'a Program, rows: &[Row]) -> Entry<'a> {
    let row = rows.iter().find(|row| row.program == program.name);
    Entry {
        rung: program.rung,
        program: &program.name,
        about: &program.about,
        waits_in: program.waits_in.as_deref(),
        new_idea: idea(program),
        symptom: Some(program.symptom.as_str()).filter(|symptom| !symptom.is_empty()),
        calls_per_datagram: row
            .map(|row| row.one_at_a_time.total() as f64 / row.one_at_a_time.datagrams.max(1) as f64),
        lines: program.lines,
        layer: &program.layer,
        source: &program.source,
        page: program.page.as_deref(),
    }
}
