//! Images at addresses: who gets bytes, who gets addresses, and who nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Keeps what it was asked, of images only, and answers.
struct Looker {
    card: BackendCard,
    takes: ImageAddresses,
    seen: Mutex<Vec<Vec<String>>>,
}

impl Looker {
    fn new(name: &str, trust: Trust, takes: ImageAddresses) -> Arc<Self> {
        Arc::new(Self {
            card: Fake::new(name, trust, Script::Empty).card.clone(),
            takes,
            seen: Mutex::default(),
        })
    }

    fn seen(&self) -> Vec<Vec<String>> {
        self.seen.lock().unwrap().clone()
    }
}

#[async_trait]
impl Backend for Looker {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::READY
    }

    fn image_addresses(&self, _: &ChatRequest) -> ImageAddresses {
        self.takes
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let parts = call.request().messages.iter().flat_map(|it| &it.content);
        let urls = parts.filter_map(|part| match part {
            Part::Image(image) => Some(image.url.clone()),
            _ => None,
        });
        self.seen.lock().unwrap().push(urls.collect());
        let events = [
            ChatEvent::Started(Started {
                model: call.model().to_owned(),
                reply_id: None,
                fingerprint: None,
            }),
            ChatEvent::Text {
                choice: 0,
                text: "seen".into(),
            },
            ChatEvent::ChoiceEnded {
                choice: 0,
                reason: FinishReason::Stop,
            },
        ];
        Ok(stream::iter(events.map(Ok)).boxed())
    }
}

/// Fetches what ends in `.png`.
#[derive(Default)]
struct Web {
    asked: AtomicUsize,
    /// Never answers.
    hangs: bool,
}

#[async_trait]
impl ImageFetcher for Web {
    async fn fetch(&self, url: &str) -> Result<FetchedImage, FetchFault> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if !url.ends_with(".png") {
            return Err(FetchFault::NoImage);
        }
        let url = format!("data:image/png;base64,{}", url.len());
        Ok(FetchedImage { url })
    }
}

const LIMITS: ImageLimits = ImageLimits {
    count_max: 2,
    bytes_max: 2048,
    room_bytes: 4096,
    wait_max: Duration::from_secs(5),
};

fn rules(web: &Arc<Web>) -> Option<ImageRules> {
    Some(ImageRules::new(Arc::clone(web) as _, LIMITS))
}

fn bench_of(backends: Vec<Arc<Looker>>, images: Option<ImageRules>) -> Bench {
    let backends = backends.into_iter().map(|it| it as Arc<dyn Backend>);
    let snapshot = snapshot_of(ROUTES, backends.collect());
    bench_with(snapshot.with_images(images), 8)
}

fn asking(model: &str, urls: &[&str]) -> Parsed {
    let mut parsed = parsed(model, "what is it?");
    let image = |url: &&str| {
        Part::Image(Image {
            url: (*url).to_owned(),
            detail: None,
        })
    };
    let content = &mut parsed.request.messages[0].content;
    content.extend(urls.iter().map(image));
    parsed.request.source = Some(SourceBody {
        dialect: Dialect::OpenAi,
        bytes: Default::default(),
    });
    parsed
}

/// Where the request is wrong, and why.
async fn refused(bench: &Bench, asked: Parsed) -> (String, String) {
    let refusal = bench.pipeline.run(asked).await.unwrap_err();
    match refusal.fault {
        Fault::BadRequest(reason) => (reason.param.unwrap_or_default(), reason.message),
        other => panic!("{other:?}"),
    }
}

const A: &str = "https://a.example/cat.png";
const FETCHED: &str = "data:image/png;base64,25";
const INLINE: &str = "data:image/png;base64,AAAA";

#[tokio::test(start_paused = true)]
async fn who_takes_bytes_alone_gets_what_is_at_the_address() {
    for (takes, is_fetched) in [
        (ImageAddresses::Refused, true),
        (ImageAddresses::Doubtful, true),
        (ImageAddresses::Taken, false),
    ] {
        let web = Arc::new(Web::default());
        let cloud = Looker::new("fake", Trust::Public, takes);
        let bench = bench_of(vec![cloud.clone()], rules(&web));
        let answer = bench
            .pipeline
            .run(asking("fake/big", &[A, INLINE, A]))
            .await;
        assert_eq!(text(answer.unwrap()).await, "seen");
        let url = if is_fetched { FETCHED } else { A };
        assert_eq!(cloud.seen(), [[url, INLINE, url]]);
        // The same address is fetched once.
        assert_eq!(web.asked.load(Ordering::Relaxed), usize::from(is_fetched));
    }
}

#[tokio::test(start_paused = true)]
async fn without_fetching_who_takes_bytes_alone_is_passed_over() {
    let local = Looker::new("local", Trust::Device, ImageAddresses::Refused);
    let cloud = Looker::new("fake", Trust::Public, ImageAddresses::Taken);
    let mut bench = bench_of(vec![local.clone(), cloud.clone()], None);
    let mut asked = asking("auto", &[A]);
    asked.context.headers = vec![("x-tier".into(), "gold".into())];
    let answer = bench.pipeline.run(asked).await.unwrap();
    assert_eq!(answer.route.to_string(), "cloud:fake");
    drop(answer);
    assert_eq!(cloud.seen(), [[A]]);
    let failed = bench.records.recv().await.unwrap().failed_candidates;
    assert_eq!(failed, [("local".into(), "declined")]);

    let (path, words) = refused(&bench, asking("local", &[INLINE, A])).await;
    assert_eq!(path, "messages[0].content[2].image_url.url");
    assert!(words.contains("images.fetch is off"), "{words}");
    assert!(local.seen().is_empty());

    // One that may fetch it is left to try.
    let gpu = Looker::new("gpu", Trust::Tenant, ImageAddresses::Doubtful);
    let bench = bench_of(vec![gpu.clone()], None);
    bench.pipeline.run(asking("gpu/big", &[A])).await.unwrap();
    assert_eq!(gpu.seen(), [[A]]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fetched_is_named_with_its_place() {
    let web = Arc::new(Web::default());
    let local = Looker::new("local", Trust::Device, ImageAddresses::Refused);
    let bench = bench_of(vec![local.clone()], rules(&web));
    let of = |at: usize| format!("messages[0].content[{at}].image_url.url");
    let (path, words) = refused(&bench, asking("local", &[A, "https://a.example/page"])).await;
    assert_eq!(path, of(2));
    assert!(words.contains("no image of a kind"), "{words}");
    let many = [A, "https://a.example/2.png", "https://a.example/3.png"];
    let (path, words) = refused(&bench, asking("local", &many)).await;
    assert_eq!(path, of(3));
    assert!(words.contains("at most 2 images"), "{words}");
    assert!(local.seen().is_empty());
}

/// An address is a way out of the building, whoever reads the image.
#[tokio::test(start_paused = true)]
async fn an_address_with_personal_data_is_not_fetched() {
    let web = Arc::new(Web::default());
    let local = Looker::new("local", Trust::Device, ImageAddresses::Refused);
    let bench = bench_of(vec![local], rules(&web));
    let url = "https://a.example/a@b.example/cat.png";
    let (path, words) = refused(&bench, asking("local", &[url])).await;
    assert_eq!(path, "messages[0].content[1].image_url.url");
    assert!(words.contains("personal data"), "{words}");
    assert_eq!(web.asked.load(Ordering::Relaxed), 0);
}

/// What is at an address tomorrow is not in the key, whoever fetches it.
#[tokio::test(start_paused = true)]
async fn a_reply_over_images_at_addresses_is_not_kept() {
    for (takes, url, is_kept) in [
        (ImageAddresses::Refused, A, false),
        (ImageAddresses::Taken, A, false),
        (ImageAddresses::Refused, INLINE, true),
    ] {
        let web = Arc::new(Web::default());
        let cloud = Looker::new("fake", Trust::Public, takes);
        let bench = bench_of(vec![cloud], rules(&web));
        let asked = asking("fake/big", &[url]);
        let answer = bench.pipeline.run(asked).await.unwrap();
        assert_eq!(text(answer).await, "seen");
        assert_eq!(!bench.cache.0.lock().unwrap().is_empty(), is_kept);
    }
}

#[tokio::test(start_paused = true)]
async fn two_candidates_share_what_was_fetched() {
    let web = Arc::new(Web::default());
    let broken = Fake::new(
        "local",
        Trust::Device,
        Script::Fails(BackendError::Engine("broken")),
    );
    let cloud = Looker::new("fake", Trust::Public, ImageAddresses::Refused);
    let snapshot = snapshot_of(ROUTES, vec![broken.clone() as _, cloud.clone() as _]);
    let bench = bench_with(snapshot.with_images(rules(&web)), 8);
    let mut asked = asking("auto", &[A]);
    asked.context.headers = vec![("x-tier".into(), "gold".into())];
    let answer = bench.pipeline.run(asked).await.unwrap();
    assert_eq!(answer.route.to_string(), "cloud:fake");
    assert_eq!((broken.calls().len(), cloud.seen().len()), (1, 1));
    assert_eq!(web.asked.load(Ordering::Relaxed), 1);
}

/// Two requests of one image each fill the room; the third waits in vain.
#[tokio::test(start_paused = true)]
async fn images_under_way_have_a_bound() {
    let web = Arc::new(Web {
        hangs: true,
        ..Web::default()
    });
    let local = Looker::new("local", Trust::Device, ImageAddresses::Refused);
    let bench = bench_of(vec![local], rules(&web));
    let run = || bench.pipeline.run(asking("local", &[A]));
    let third = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        run().await
    };
    let refusal = tokio::select! {
        _ = run() => unreachable!("it hangs"),
        _ = run() => unreachable!("it hangs"),
        third = third => third.unwrap_err(),
    };
    assert_eq!(refusal.fault.as_label(), "overloaded");
    assert_eq!(web.asked.load(Ordering::Relaxed), 2);
    // Whoever leaves gives it back.
    let again = tokio::time::timeout(Duration::from_secs(1), run()).await;
    assert!(again.is_err());
    assert_eq!(web.asked.load(Ordering::Relaxed), 3);
}
