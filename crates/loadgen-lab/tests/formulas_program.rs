//! `loadgen-formulas`: the tables that the chapter shows, and its picture.

use std::path::Path;
use std::time::Duration;

use harness::demo::must;
use harness::{Ended, Launch};

fn formulas(args: &[&str]) -> Ended {
    // It computes, for long in a development build on a busy machine.
    let patience = Duration::from_secs(600);
    must(Launch::new(env!("CARGO_BIN_EXE_loadgen-formulas")).args(args).patience(patience).run())
}

#[test]
fn what_the_engine_records_is_what_the_formulas_say() {
    for (table, rows, tolerance) in
        [("stall", 12, 0.01), ("overload", 5, 0.01), ("queues", 6, 0.05), ("coalesce", 15, 0.02)]
    {
        let ended = formulas(&[table]);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        let text = ended.stdout;
        let figures: Vec<Vec<f64>> = text
            .lines()
            .skip(if table == "coalesce" { 4 } else { 3 })
            .map(|line| line[34..].split_whitespace().filter_map(|cell| cell.parse().ok()).collect())
            .collect();
        assert_eq!(figures.len(), rows, "{text}");
        for (line, row) in text.lines().skip(3).zip(&figures) {
            assert!((row[1] / row[0] - 1.0).abs() <= tolerance, "the open loop is off the formula: {line}");
        }
        if table == "coalesce" {
            assert!(figures.iter().all(|row| (row[2] - row[3]).abs() <= 1.0), "the send lag: {text}");
        }
        if table == "stall" {
            let p99 = &figures[2];
            assert!(p99[2] < 0.001 * p99[0], "the control, a closed loop, must miss the stall: {p99:?}");
        }
    }
}

#[test]
fn the_picture_in_the_chapter_is_the_one_that_is_drawn() {
    let drawn = std::env::temp_dir().join(format!("loadgen-omission-{}.svg", std::process::id()));
    let path = drawn.to_str().expect("a path in UTF-8");
    assert!(formulas(&["stall", "--picture", path]).status.success());
    let new = std::fs::read_to_string(&drawn).expect("the picture");
    // Another run makes another.
    let _ = std::fs::remove_file(&drawn);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pictures/omission.svg");
    assert_eq!(
        std::fs::read_to_string(page).expect("docs/pictures/omission.svg"),
        new,
        "draw it again: cargo run --bin loadgen-formulas -- stall --picture docs/pictures/omission.svg"
    );
}

#[test]
fn a_picture_that_cannot_be_written_is_one_line_and_1() {
    let ended = formulas(&["timers", "--picture", "/nowhere/at/all.svg"]);
    assert_eq!(ended.code(), Some(1));
    let stderr = ended.stderr;
    assert!(stderr.contains("/nowhere/at/all.svg") && stderr.lines().count() == 1, "{stderr}");
}
