//! The clients of `ladder bench`, and the servers in C that it compares with: each echo comes, whole and in order.

#[allow(dead_code)]
mod tool;

use serde_json::Value;

use tool::{is_there, ladder};

#[test]
fn every_client_gets_its_echoes_from_ours_and_from_the_c_peers() {
    // The tool says the same of CC, where that is set.
    let has_compiler = is_there(&std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    for (client, size, peers) in
        [("plain", "32", "1"), ("gso", "1400", "1"), ("gso-gro", "32", "1"), ("gso-gro", "1400", "16")]
    {
        let said = ladder(&[
            "bench",
            "--dev",
            "--json",
            "--c-peers",
            "--rounds",
            "1",
            "--duration",
            "20ms",
            "--pings",
            "10",
            "--client",
            client,
            "--size",
            size,
            "--peers",
            peers,
            "echo-blocking",
            "echo-mmsg",
        ]);
        assert_eq!(said.code, Some(0), "{said:?}");
        if !has_compiler {
            assert!(said.err.contains("there is no compiler"), "{said:?}");
        }
        let report: Value = serde_json::from_str(&said.out).expect("a report");
        let programs = report["programs"].as_array().expect("rows");
        let names: Vec<&str> = programs.iter().filter_map(|row| row["program"].as_str()).collect();
        let mut expected = vec!["echo-blocking", "echo-mmsg"];
        if has_compiler {
            expected.extend(["c-blocking", "c-gso", "c-mmsg"]);
        }
        assert_eq!(names, expected);
        for row in programs {
            assert_eq!((&row["lost"], &row["wrong"]), (&Value::from(0), &Value::from(0)), "{client}: {row}");
            assert!(row["echoes_per_second"]["median"].as_f64() > Some(0.0), "{client}: {row}");
        }
    }
}
