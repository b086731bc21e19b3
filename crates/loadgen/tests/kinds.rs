//! What kinds of servers there are, and what limits there are: tests over real sockets beside those of `live.rs`. What
//! they assert are counts, which no busy machine changes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;

use harness::demo::must;
use harness::{Launch, Process, cores};
use serde_json::Value;

mod common;
use common::{Target, end, loadgen, output, own_address};

/// The JSON of a finished `loadgen`, with its exit code; it must obey the schema in the repository.
fn result(output: &Output) -> (i32, Value) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    let schema = serde_json::from_str(include_str!("../schema/result.schema.json")).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<_> =
        validator.iter_errors(&result).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {result}");
    (output.status.code().expect("no signal ended it"), result)
}

/// Runs `loadgen run` without warm-up.
fn run(url: &str, args: &[&str]) -> (i32, Value) {
    result(&output(&[&["run", url, "--json", "--no-progress", "--warmup", "0s"], args].concat()))
}

fn counted(result: &Value, name: &str) -> u64 {
    result["counts"][name].as_u64().expect("a count")
}

fn http(target: &Target) -> String {
    format!("http://{}/", target.address)
}

/// A server whose `n`th connection is handled by `answer`; it ends with the test's process.
fn http_server(mut answer: impl FnMut(usize, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            // A client that has gone away is no matter here.
            let Ok(clone) = stream.try_clone() else { continue };
            let mut lines = BufReader::new(clone).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            answer(n, &mut stream);
        }
    });
    format!("http://{address}/")
}

#[test]
fn what_goes_wrong_has_a_class_and_the_others_go_on() {
    // Every connection serves one request, each in another way.
    let url = http_server(|n, stream| {
        let reply: &[u8] = match n % 5 {
            0 => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            1 => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nshort",
            2 => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            3 => b"this is not HTTP at all\r\n\r\n",
            _ => b"",
        };
        // Whoever does not read it has gone.
        let _ = stream.write_all(reply);
    });
    let (code, result) = run(&url, &["--rate", "100", "--duration", "1s", "--connections", "1"]);
    assert!(matches!(code, 3 | 4), "{code}");
    assert_eq!((counted(&result, "ok"), counted(&result, "error")), (20, 80), "{}", result["errors"]);
    let errors = result["errors"].as_object().expect("classes");
    assert_eq!(errors.values().filter_map(Value::as_u64).sum::<u64>(), 80, "{errors:?}");
    assert_eq!(errors.get("http 503"), Some(&20.into()), "{errors:?}");
    assert_eq!(errors.get("malformed response"), Some(&20.into()), "{errors:?}");
    assert!(errors.len() >= 3, "{errors:?}");
    assert_eq!(result["corrected"]["count"], 100, "errors keep their latency");

    // Nobody listens: an address of this test's own, so that nobody is given the port.
    let taken = TcpListener::bind((own_address(), 0)).expect("a port");
    let url = format!("http://{}/", taken.local_addr().expect("an address"));
    drop(taken);
    let (code, result) = run(&url, &["--rate", "50", "--duration", "1s"]);
    assert!(matches!(code, 3 | 4), "{code}");
    assert_eq!(result["errors"]["connection refused"], 50, "{}", result["errors"]);
}

/// Two clients that were written apart: whatever a server does, both must say the same of it.
#[test]
fn the_lean_client_and_hyper_tell_the_same() {
    const REPLIES: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ncut",
        "HTTP/1.1 200 OK\r\nContent-Len",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "no HTTP at all\r\n\r\n",
        "",
    ];
    let rounds = 4;
    let told = |client: &str, method: &str| {
        // Each connection serves one request: the second half of them byte by byte.
        let url = http_server(move |n, stream| {
            let reply = REPLIES[n % REPLIES.len()].as_bytes();
            let step = if n / REPLIES.len() < rounds / 2 { reply.len().max(1) } else { 1 };
            // Without Nagle's algorithm each write is a segment, unless the reader is slower.
            let _ = stream.set_nodelay(true);
            for piece in reply.chunks(step) {
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
        });
        let rate = (rounds * REPLIES.len()).to_string();
        // One request a connection by the request's own word. Otherwise a client that is behind its schedule asks again
        // before it has heard that the connection ends, and takes the content that HEAD must not have for the answer.
        let once = ["--connections", "1", "--header", "Connection: close"];
        let args = ["--rate", &rate, "--duration", "1s", "--client", client, "--method", method];
        let (_, result) = run(&url, &[&args[..], &once].concat());
        assert_eq!(result["plan"]["client"], client);
        (result["counts"].clone(), result["errors"].clone())
    };
    for method in ["GET", "HEAD"] {
        let (lean, hyper) = (told("lean", method), told("hyper", method));
        assert_eq!(lean, hyper, "{method}");
        // The first five are good; to HEAD also those whose faults lie where there is no body.
        let good = if method == "GET" { 5 } else { 10 };
        assert_eq!(lean.0["ok"], good * rounds as u64, "{method}: {lean:?}");
    }
}

/// And they ask the same: whatever the flags, the server gets the same fields and the same content.
#[test]
fn the_lean_client_and_hyper_ask_the_same() {
    let asked = |client: &str, args: &[&str]| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client connects");
            stream.set_read_timeout(Some(common::DEADLINE)).expect("a timeout is set");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // A request ends where its fields say.
            loop {
                let n = stream.read(&mut buffer).expect("the request comes");
                request.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, content)) = text.split_once("\r\n\r\n") else { continue };
                let fields: Vec<String> = head.lines().skip(1).map(str::to_ascii_lowercase).collect();
                let length = fields.iter().find_map(|field| field.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
                let chunked = fields.iter().any(|field| field == "transfer-encoding: chunked");
                if content.len() < length || chunked && !content.ends_with("0\r\n\r\n") {
                    continue;
                }
                let mut fields: Vec<String> =
                    fields.into_iter().filter(|field| !field.starts_with("host: ")).collect();
                fields.sort();
                let first = head.lines().next().unwrap_or_default().to_owned();
                // The client may have gone.
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return (first, fields, content.to_owned());
            }
        });
        let all = ["--rate", "1", "--duration", "1s", "--client", client];
        let (_, result) = run(&format!("http://{address}/a?b=c"), &[&all[..], args].concat());
        assert_eq!(counted(&result, "ok"), 1, "{client} {args:?}: {}", result["errors"]);
        server.join().expect("the server got a request")
    };
    for args in [
        &[][..],
        &["--method", "HEAD"],
        &["--method", "DELETE"],
        &["--method", "POST", "--body", "hello"],
        &["--body", "hello", "--header", "X-One: 1", "--header", "X-One: 2"],
        &["--header", "User-Agent: other", "--header", "Accept: */*"],
        &["--method", "PUT", "--body", "hello", "--header", "Content-Length: 5"],
        &["--method", "PUT", "--body", "hello", "--header", "Transfer-Encoding: chunked"],
    ] {
        assert_eq!(asked("lean", args), asked("hyper", args), "{args:?}");
    }
    // Content that could be there and is not: RFC 9110, section 8.6, wants its length told, and hyper does not.
    let (_, fields, _) = asked("lean", &["--method", "POST"]);
    assert!(fields.contains(&"content-length: 0".to_owned()), "{fields:?}");
}

/// A server may close an idle connection whenever it likes, and may say that it will: no request is lost to that.
#[test]
fn a_connection_that_the_server_ends_is_opened_anew() {
    for (client, says_so) in [("lean", false), ("hyper", false), ("lean", true), ("hyper", true)] {
        let mut open = Vec::new();
        let url = http_server(move |_, stream| {
            let field = if says_so { "Connection: close\r\n" } else { "" };
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{field}\r\nok");
            if says_so {
                // It says so, and takes its time.
                open.extend(stream.try_clone());
            }
        });
        let args = ["--rate", "20", "--duration", "1s", "--connections", "1", "--client", client];
        let (_, result) = run(&url, &args);
        assert_eq!(counted(&result, "ok"), 20, "{client}, {says_so}: {}", result["errors"]);
        assert_eq!(result["connect"]["count"], 20, "{client}, {says_so}");
    }
}

/// A server that answers before it has read the request, and does not read the rest: its answer counts.
#[test]
fn an_early_answer_is_an_answer() {
    let body = std::env::temp_dir().join(format!("loadgen-early-{}", std::process::id()));
    // More than the buffers of both sockets hold: the client is still writing when the answer comes.
    std::fs::write(&body, vec![b'x'; 32 << 20]).expect("written");
    for closes in [false, true] {
        let mut open = Vec::new();
        let url = http_server(move |_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
            if !closes {
                open.extend(stream.try_clone());
            }
        });
        let file = format!("@{}", body.display());
        let args = ["--rate", "20", "--duration", "1s", "--method", "POST", "--body", &file];
        let (_, result) = run(&url, &args);
        assert_eq!(result["errors"]["http 413"], 20, "closes: {closes}: {}", result["errors"]);
        assert_eq!(result["connect"]["count"], 20, "none is used again with half a request in it");
    }
    std::fs::remove_file(&body).expect("it is ours");
}

#[test]
fn tcp_lines_are_read_to_their_end() {
    let target = Target::start("tcp", &[]);
    let (_, result) = run(&format!("tcp://{}", target.address), &["--rate", "200", "--duration", "1s"]);
    assert_eq!(counted(&result, "ok"), 200, "{} {}", result["counts"], result["errors"]);
    let summary = target.stop();
    assert_eq!(summary["answered"], 200);

    let target = Target::start("tcp", &["--bucket", "0.001,10,reject"]);
    let (code, result) = run(&format!("tcp://{}", target.address), &["--rate", "100", "--duration", "1s"]);
    assert!(matches!(code, 3 | 4), "{code}");
    assert_eq!((counted(&result, "ok"), counted(&result, "error")), (10, 90), "{}", result["errors"]);
}

#[test]
fn tls_is_spoken_and_an_unknown_certificate_is_an_error() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("a certificate");
    let directory = std::env::temp_dir().join(format!("loadgen-live-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let root = directory.join("root.pem");
    std::fs::write(&root, key.cert.pem()).expect("written");
    let certificate = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let builder = tls_versions().with_no_client_auth();
    let port = tls_server(builder.with_single_cert(vec![certificate], private).expect("a configuration"));
    for (host, client) in [("localhost", "lean"), ("127.0.0.1", "lean"), ("localhost", "hyper")] {
        let url = format!("https://{host}:{port}/");
        let root = root.to_str().expect("UTF-8");
        let (_, result) =
            run(&url, &["--rate", "50", "--duration", "1s", "--cacert", root, "--client", client]);
        assert_eq!(counted(&result, "ok"), 50, "{host}: {}", result["errors"]);
        assert_eq!(result["plan"]["protocol"], "https");
    }
    let (code, result) = run(&format!("https://localhost:{port}/"), &["--rate", "20", "--duration", "1s"]);
    let _ = std::fs::remove_dir_all(&directory);
    assert!(matches!(code, 3 | 4), "{code}");
    assert_eq!(result["errors"]["tls certificate not trusted"], 20, "{}", result["errors"]);
}

#[test]
fn t12_a_starved_generator_is_the_limit_and_says_so() {
    let target = Target::start("udp", &[]);
    let core = cores()[0];
    let busy = || Launch::new("sh").args(["-c", "while :; do :; done"]).on_core(core).start();
    // So many that whatever the machine, what is left of the core is too little.
    let _burners: Vec<Process> = (0..16).map(|_| must(busy())).collect();
    let url = format!("udp://{}", target.address);
    let args = ["run", &url, "--json", "--rate", "20000", "--duration", "2s", "--warmup", "0s"];
    let args = [&args[..], &["--timeout", "1s", "--max-latency", "1s"]].concat();
    let (code, result) = result(&end(must(loadgen(&args).on_core(core).start())));
    assert_eq!(code, 4, "{}", result["validity"]);
    assert_eq!(result["validity"]["ok"], false);
    assert!(result["validity"]["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()));
    assert_eq!(counted(&result, "scheduled"), 40_000, "the schedule is the schedule");
}

#[test]
fn t4_a_search_that_its_own_connections_limit_names_no_capacity() {
    // Two connections to a server that takes 50 ms: 40 requests a second, whatever the server could do.
    let target = Target::start("http", &["--delay", "50ms"]);
    let url = http(&target);
    let args = [
        "search",
        &url,
        "--max-latency",
        "500ms",
        "--for",
        "2s",
        "--trial",
        "1s",
        "--sum",
        "1s",
        "--width",
        "5%",
    ];
    let output = output(&[&args[..], &["--connections", "2", "--json", "--no-progress"]].concat());
    let (code, result) = result(&output);
    assert_eq!(code, 4, "{}", result["validity"]);
    assert_eq!(result["confirmed"], Value::Null, "{result}");
    assert_eq!(result["strict"], serde_json::json!({"lower": null, "upper": null}), "{result}");
    // Trials above the pool's rate end early; they are no failure of the server's either.
    let trials = result["trials"].as_array().expect("every trial is in the report");
    assert!(trials.iter().any(|trial| trial["verdict"] == "invalid"), "{result}");
    assert!(trials.iter().all(|trial| trial["verdict"] != "fail"), "{result}");
}

#[test]
fn compare_runs_all_targets_on_one_schedule() {
    let (quick, slow) = (Target::start("http", &[]), Target::start("http", &["--delay", "100ms"]));
    let (a, b) = (http(&quick), http(&slow));
    let args =
        ["compare", &a, &b, "--rate", "100", "--duration", "1s", "--warmup", "0s", "--json", "--no-progress"];
    let output = output(&args);
    let (code, result) = result(&output);
    assert!(matches!(code, 0 | 4), "{result}");
    let targets = result["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 2);
    for target in targets {
        assert_eq!(target["counts"], targets[0]["counts"], "the same schedule");
        assert_eq!(target["counts"]["ok"], target["counts"]["scheduled"], "{}", target["errors"]);
    }
    let ratio = result["ratios"][1]["p50"].as_f64().expect("a ratio");
    assert!(ratio > 1.0, "the slow one is slower: {ratio}");
}

/// What every TLS server here begins with.
fn tls_versions() -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
}

/// A TLS server so configured, for any number of connections; its port.
fn tls_server(config: rustls::ServerConfig) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("an address").port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), config) = (stream, Arc::clone(&config)) else { continue };
            std::thread::spawn(move || {
                let mut session = rustls::ServerConnection::new(config).expect("a session");
                let mut tls = rustls::Stream::new(&mut session, &mut stream);
                let mut buffer = [0; 4096];
                // Each request fits into one record; a client that breaks off is no matter here.
                while tls.read(&mut buffer).is_ok_and(|length| length > 0) {
                    if tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// What is wrong with a certificate is told apart, and what a lab makes for itself can be trusted.
#[test]
fn tls_says_what_is_wrong_and_trusts_what_was_named() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server =
        |certificate: CertificateDer<'static>, key: &KeyPair, clients: Option<&CertificateDer<'static>>| {
            let builder = match clients {
                None => tls_versions().with_no_client_auth(),
                Some(root) => {
                    let mut roots = rustls::RootCertStore::empty();
                    roots.add(root.clone()).expect("a root");
                    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                        Arc::new(roots),
                        Arc::clone(&provider),
                    );
                    tls_versions().with_client_cert_verifier(verifier.build().expect("a verifier"))
                }
            };
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            tls_server(builder.with_single_cert(vec![certificate], key).expect("a configuration"))
        };
    let directory = tempfile::tempdir().expect("a directory");
    let pem = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let params = || CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    // Self-signed, and it says that it may sign others, as openssl's do by default.
    let mut ca = params();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = ca.clone().self_signed(&key).expect("a certificate");
    let own_pem = pem("own.pem", own.pem());
    let mut old = params();
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old_key = KeyPair::generate().expect("a key");
    let issuer = Issuer::new(ca, &key);
    let old = old.signed_by(&old_key, &issuer).expect("a certificate");
    let client_key = KeyPair::generate().expect("a key");
    let client = pem("client.pem", params().signed_by(&client_key, &issuer).expect("a certificate").pem());
    let client_key = pem("client.key", client_key.serialize_pem());

    let good = server(own.der().clone(), &key, None);
    let expired = server(old.der().clone(), &old_key, None);
    let asks = server(own.der().clone(), &key, Some(own.der()));
    let told = |host: &str, port: u16, flags: &[&str]| {
        let args = ["--rate", "10", "--duration", "1s"];
        let (_, result) = run(&format!("https://{host}:{port}/"), &[&args[..], flags].concat());
        let class = result["errors"].as_object().and_then(|errors| errors.keys().next().cloned());
        (counted(&result, "ok"), class.unwrap_or_default())
    };
    let trust = ["--cacert", own_pem.as_str()];
    assert_eq!(told("localhost", good, &trust), (10, String::new()));
    assert_eq!(told("127.0.0.1", good, &trust), (0, "tls certificate for another name".to_owned()));
    assert_eq!(told("127.0.0.1", good, &[&trust[..], &["--sni", "localhost"]].concat()).0, 10);
    assert_eq!(told("localhost", good, &[]), (0, "tls certificate not trusted".to_owned()));
    assert_eq!(told("127.0.0.1", expired, &["--insecure"]).0, 10);
    assert_eq!(told("localhost", expired, &trust), (0, "tls certificate expired".to_owned()));
    let client = [&trust[..], &["--cert", &client, "--key", &client_key]].concat();
    assert_eq!(told("localhost", asks, &client).0, 10);
    assert_eq!(told("localhost", asks, &trust).0, 0, "the control");

    let empty = pem("empty.pem", "nothing\n".to_owned());
    let output = output(&["run", "https://localhost/", "--rate", "1", "--cacert", &empty]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && errors.contains("holds no certificate"), "{errors}");
}
