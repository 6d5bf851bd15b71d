//! The fetcher against this machine, which it would never reach outside of tests: here names lead where
//! the test says, and what is public is the test's to say.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more";
const RULES: FetchRules = FetchRules {
    allows_http: true,
    bytes_max: 1000,
    timeout: Duration::from_secs(10),
    redirects_max: 2,
    kinds: Vec::new(),
};
const ANY: Reach = Reach::of(|_| true, |_| true);

/// Answers by path, and knows what it was sent.
struct Site {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Site {
    async fn with(pages: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pages = pages.iter().map(|(path, page)| ((*path).to_owned(), page));
        let pages: BTreeMap<String, Vec<u8>> = pages.map(|(path, it)| (path, it.clone())).collect();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let told = Arc::clone(&heard);
        serving.spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(socket.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap().to_owned();
                told.lock().unwrap().push(request);
                // One without a page never answers.
                let Some(page) = pages.get(&path) else {
                    std::future::pending::<()>().await;
                    return;
                };
                let mut sent = socket.write_all(page).await;
                while path.starts_with("/endless") && sent.is_ok() {
                    sent = socket.write_all(b"5\r\naaaaa\r\n").await;
                }
            }
        });
        Self {
            port,
            heard,
            _serving: serving,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://a.example:{}{path}", self.port)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn page(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn moved(status: &str, location: &str) -> Vec<u8> {
    page(status, &format!("location: {location}\r\n"), b"")
}

/// `a.example` is this machine, `inside.example` is, too, by its other address, `both.example` is both;
/// others are unknown. Counts what it is asked.
#[derive(Default)]
struct Names(Mutex<Vec<String>>);

#[async_trait]
impl Resolve for Names {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.0.lock().unwrap().push(host.to_owned());
        let (outside, inside) = ([127, 0, 0, 1], [127, 0, 0, 2]);
        let known: &[[u8; 4]] = match host {
            "a.example" => &[outside],
            "inside.example" => &[inside],
            "both.example" => &[outside, inside],
            "empty.example" => &[],
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(known.iter().map(|octets| IpAddr::from(*octets)).collect())
    }
}

fn builder() -> ClientBuilder {
    // Failing means that another test was first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder().tls_certs_only([])
}

fn fetcher(rules: FetchRules, reach: Reach) -> (Fetcher, Arc<Names>) {
    let names = Arc::new(Names::default());
    let rules = FetchRules {
        kinds: ImageKind::ALL.to_vec(),
        ..rules
    };
    let fetcher = Fetcher::reaching(builder(), rules, reach, Arc::clone(&names) as _);
    (fetcher.unwrap(), names)
}

async fn fetch(url: &str) -> Result<String, FetchFault> {
    let (fetcher, _) = fetcher(RULES, ANY);
    fetcher.fetch(url).await.map(|image| image.url)
}

#[tokio::test]
async fn an_image_comes_as_a_data_url_of_what_it_is() {
    let headers = "content-type: text/html\r\nset-cookie: a=b\r\n";
    let site = Site::with(&[("/a?b=c", page("200 OK", headers, PNG))]).await;
    let fetched = fetch(&site.url("/a?b=c#d")).await.unwrap();
    let expected = format!("data:image/png;base64,{}", STANDARD.encode(PNG));
    assert_eq!(fetched, expected);
    let heard = site.heard().remove(0).to_ascii_lowercase();
    assert!(heard.starts_with("get /a?b=c http/1.1\r\n"), "{heard}");
    assert!(heard.contains("accept-encoding: identity\r\n"), "{heard}");
    for absent in ["cookie", "authorization", "referer"] {
        assert!(!heard.contains(absent), "{heard}");
    }
}

#[tokio::test]
async fn what_is_no_image_of_the_right_size_is_left() {
    let chunked = |body: &[u8]| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        [head.as_slice(), body].concat()
    };
    let long = [PNG, &[0; 1000]].concat();
    let zipped = "content-encoding: gzip\r\n";
    let site = Site::with(&[
        (
            "/html",
            page(
                "200 OK",
                "content-type: image/png\r\n",
                b"<!doctype html>..",
            ),
        ),
        ("/short", page("200 OK", "", &PNG[..8])),
        ("/empty", page("200 OK", "", b"")),
        ("/long", page("200 OK", "", &long)),
        ("/zipped", page("200 OK", zipped, PNG)),
        ("/missing", page("404 Not Found", "", PNG)),
        ("/partial", page("206 Partial Content", "", PNG)),
        (
            "/broken",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n\x89PNG".to_vec(),
        ),
        ("/garbage", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("/endless", chunked(b"c\r\n\x89PNG\r\n\x1a\n1234\r\n")),
        ("/endless-text", chunked(b"")),
    ])
    .await;
    let bytes_max = RULES.bytes_max;
    for (path, expected) in [
        ("/html", FetchFault::NoImage),
        ("/short", FetchFault::NoImage),
        ("/empty", FetchFault::NoImage),
        ("/long", FetchFault::TooLarge { bytes_max }),
        ("/zipped", FetchFault::Compressed),
        ("/missing", FetchFault::Status(404)),
        ("/partial", FetchFault::Status(206)),
        ("/broken", FetchFault::Broken),
        ("/garbage", FetchFault::Broken),
        ("/endless", FetchFault::TooLarge { bytes_max }),
        ("/endless-text", FetchFault::NoImage),
    ] {
        assert_eq!(fetch(&site.url(path)).await, Err(expected), "{path}");
    }
}

#[tokio::test]
async fn only_the_kinds_that_are_taken_are_fetched() {
    let site = Site::with(&[("/a", page("200 OK", "", PNG))]).await;
    for (kinds, is_taken) in [
        (vec![ImageKind::Png], true),
        (vec![ImageKind::Jpeg, ImageKind::Gif], false),
    ] {
        let rules = FetchRules { kinds, ..RULES };
        let names = Arc::new(Names::default());
        let fetcher = Fetcher::reaching(builder(), rules, ANY, names).unwrap();
        let fetched = fetcher.fetch(&site.url("/a")).await;
        assert_eq!(fetched.is_ok(), is_taken, "{fetched:?}");
    }
}

#[tokio::test]
async fn redirects_are_followed_so_far_and_no_further() {
    let site = Site::with(&[
        ("/a", page("200 OK", "", PNG)),
        ("/1", moved("301 Moved", "/a")),
        ("/2", moved("302 Found", "1")),
        ("/3", moved("307 Elsewhere", "/2")),
        ("/4", moved("308 Elsewhere", "/4")),
        ("/5", page("303 See Other", "", b"")),
        ("/6", moved("300 Many", "/a")),
    ])
    .await;
    for (path, fault) in [
        ("/1", None),
        ("/2", None),
        ("/3", Some(FetchFault::Redirects)),
        ("/4", Some(FetchFault::Redirects)),
        ("/5", Some(FetchFault::Status(303))),
        ("/6", Some(FetchFault::Status(300))),
    ] {
        assert_eq!(fetch(&site.url(path)).await.err(), fault, "{path}");
    }
}

/// An address that is allowed must not lead to one that is not, however that is written.
#[tokio::test]
async fn every_redirect_is_judged_as_the_first_address() {
    const OUTSIDE: Reach = Reach::of(|address| address == IpAddr::from([127, 0, 0, 1]), |_| true);
    let elsewhere = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let there = |host: &str| moved("302 Found", &format!("http://{host}:{port}/"));
    let site = Site::with(&[
        ("/name", there("inside.example")),
        ("/both", there("both.example")),
        ("/unknown", there("unknown.example")),
        ("/empty", there("empty.example")),
        ("/literal", there("127.0.0.2")),
        ("/short", there("127.2")),
        ("/number", there("2130706434")),
        ("/hex", there("0x7f000002")),
        ("/mapped", there("[::ffff:127.0.0.2]")),
        ("/user", there("a:b@a.example")),
        ("/file", moved("302 Found", "file:///etc/passwd")),
        ("/data", moved("302 Found", "data:image/png;base64,AAAA")),
        ("/gopher", moved("302 Found", "gopher://a.example/")),
    ])
    .await;
    let asking = async {
        for (path, expected) in [
            ("/name", FetchFault::Unreachable),
            ("/both", FetchFault::Unreachable),
            ("/unknown", FetchFault::Unreachable),
            ("/empty", FetchFault::Unreachable),
            ("/literal", FetchFault::Unreachable),
            ("/short", FetchFault::Unreachable),
            ("/number", FetchFault::Unreachable),
            ("/hex", FetchFault::Unreachable),
            ("/mapped", FetchFault::Unreachable),
            ("/user", FetchFault::Credentials),
            ("/file", FetchFault::Malformed),
            ("/data", FetchFault::Malformed),
            ("/gopher", FetchFault::Malformed),
        ] {
            let (fetcher, _) = fetcher(RULES, OUTSIDE);
            let fetched = fetcher.fetch(&site.url(path)).await;
            assert_eq!(fetched.err(), Some(expected), "{path}");
        }
    };
    tokio::select! {
        biased;
        () = asking => {}
        _ = elsewhere.accept() => unreachable!("it was connected to"),
    }
}

/// A name that leads elsewhere the second time it is asked for has no second time.
#[tokio::test]
async fn a_name_is_looked_up_once_for_each_connection() {
    let site = Site::with(&[
        ("/a", page("200 OK", "", PNG)),
        ("/1", moved("302 Found", "/a")),
    ])
    .await;
    let (fetcher, names) = fetcher(RULES, ANY);
    fetcher.fetch(&site.url("/a")).await.unwrap();
    assert_eq!(names.0.lock().unwrap().len(), 1);
    fetcher.fetch(&site.url("/1")).await.unwrap();
    assert_eq!(names.0.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn addresses_that_are_not_everybodys_are_left_before_anything_is_sent() {
    let (fetcher, names) = fetcher(
        FetchRules {
            allows_http: false,
            ..RULES
        },
        Reach::PUBLIC,
    );
    let long = format!("https://a.example/{}", "a".repeat(URL_BYTES_MAX));
    for (url, expected) in [
        ("https://127.0.0.1/a", FetchFault::Unreachable),
        ("https://[::1]/a", FetchFault::Unreachable),
        (
            "https://169.254.169.254/latest/meta-data",
            FetchFault::Unreachable,
        ),
        ("https://0/", FetchFault::Unreachable),
        ("https://017700000001/", FetchFault::Unreachable),
        ("https://[64:ff9b::7f00:1]/", FetchFault::Unreachable),
        ("https://a.example:22/", FetchFault::Port),
        ("https://a.example:8443/", FetchFault::Port),
        ("http://a.example/a.png", FetchFault::Plain),
        ("https://u@a.example/", FetchFault::Credentials),
        ("ftp://a.example/", FetchFault::Malformed),
        ("https://", FetchFault::Malformed),
        ("a.png", FetchFault::Malformed),
        ("", FetchFault::Malformed),
        (&long, FetchFault::Malformed),
    ] {
        assert_eq!(fetcher.fetch(url).await.err(), Some(expected), "{url}");
    }
    assert_eq!(names.0.lock().unwrap().len(), 0);
    // Names are judged by where they lead.
    let fetched = fetcher.fetch("https://a.example/a.png").await;
    assert_eq!(fetched.err(), Some(FetchFault::Unreachable));
    assert_eq!(names.0.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_waited_for_so_long() {
    let site = Site::with(&[]).await;
    assert_eq!(fetch(&site.url("/")).await, Err(FetchFault::TimedOut));
}

#[tokio::test]
async fn what_is_fetched_is_written_nowhere() {
    let image = FetchedImage {
        url: "data:image/png;base64,secret".into(),
    };
    assert!(!format!("{image:?}").contains("secret"));
}
