//! Moderation by upstreams.

use super::*;

/// Judges, and keeps what it was asked.
pub(super) struct Judge {
    card: BackendCard,
    models: Vec<String>,
    fails: Option<BackendError>,
    asked: Mutex<Vec<(String, Vec<String>)>>,
}

impl Judge {
    fn new(name: &str, models: &[&str], fails: Option<BackendError>) -> Arc<Self> {
        Arc::new(Self {
            card: Fake::new(name, Trust::Public, Script::Empty).card.clone(),
            models: models.iter().map(|it| (*it).to_owned()).collect(),
            fails,
            asked: Mutex::default(),
        })
    }

    /// One that is reached sealed, or else is not.
    pub(super) fn sealed(name: &str, models: &[&str], is_sealed: bool) -> Arc<Self> {
        let Ok(mut judge) = Arc::try_unwrap(Self::new(name, models, None)) else {
            unreachable!("nobody else holds it yet");
        };
        judge.card.is_sealed = is_sealed;
        Arc::new(judge)
    }

    pub(super) fn asked(&self) -> Vec<(String, Vec<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Backend for Judge {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn chat(&self, _: Outbound) -> Result<ChatStream, BackendError> {
        Err(BackendError::Unreachable("it only judges"))
    }

    fn moderation_models(&self) -> &[String] {
        &self.models
    }

    async fn moderate(&self, call: Outbound) -> Result<Moderation, BackendError> {
        let texts = call.request().messages.iter().map(Message::text).collect();
        let mut asked = self.asked.lock().unwrap();
        asked.push((call.model().to_owned(), texts));
        match &self.fails {
            Some(error) => Err(error.clone()),
            None => Ok(Moderation {
                body: "{}".to_owned().into(),
            }),
        }
    }
}

fn bench_of(judges: &[Arc<Judge>], aliases: &[(&str, &[&str])]) -> Bench {
    let backends = judges.iter().map(|it| Arc::clone(it) as Arc<dyn Backend>);
    let aliases = aliases.iter().map(|(alias, targets)| {
        let targets = targets.iter().map(|it| (*it).to_owned()).collect();
        ((*alias).to_owned(), targets)
    });
    let classes = [(FindingClass::Email, Trust::Tenant)];
    let snapshot = Snapshot::new(
        RoutePolicy::parse("test.toml", ROUTES).unwrap(),
        ScanRules::compile(&classes, &[]).unwrap(),
        backends.collect(),
        aliases.collect(),
        CacheRules {
            is_enabled: false,
            secret: CacheSecret::new([7; 32]),
            ttl: Duration::from_secs(60),
            reply_bytes_max: 1024,
        },
        Patience::default(),
    );
    bench_with(snapshot, 8)
}

fn request(model: Option<&str>, texts: &[&str]) -> ModerationRequest {
    let texts = texts.iter().map(|text| Message::new(Role::User, *text));
    ModerationRequest {
        model: model.map(ModelAlias::new),
        inputs: texts.collect(),
    }
}

async fn judged(bench: &Bench, model: Option<&str>) -> Result<Moderated, Refusal> {
    let request = request(model, &["write to a@b.example", "plain"]);
    let anyone = Principal::anyone();
    bench
        .pipeline
        .moderate(&anyone, "r-1".into(), &[], request)
        .await
}

#[tokio::test]
async fn texts_are_masked_and_a_record_is_left() {
    let judge = Judge::new("fake", &["omni", "text"], None);
    let mut bench = bench_of(std::slice::from_ref(&judge), &[]);
    for (model, expected) in [
        (None, "omni"),
        (Some("omni"), "omni"),
        (Some("text"), "text"),
        (Some("fake/text"), "text"),
    ] {
        let made = judged(&bench, model).await.unwrap();
        assert_eq!(made.route.to_string(), "cloud:fake");
        let (asked, texts) = judge.asked().pop().unwrap();
        assert_eq!(asked, expected);
        assert_eq!(texts, ["write to <EMAIL_1>", "plain"]);
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.outcome, Outcome::Answered);
        assert_eq!(record.masked_count, 1);
        let route = record.route.unwrap();
        assert_eq!((route.model.as_str(), route.is_local), (expected, false));
    }
}

#[tokio::test]
async fn the_next_upstream_is_asked_where_that_may_help() {
    let rejected = BackendError::Rejected {
        status: 400,
        reason: BadRequest::at("input", "too long"),
    };
    for (error, outcome) in [
        (BackendError::Failed { status: 500 }, None),
        (rejected, Some("bad_request")),
    ] {
        let first = Judge::new("one", &["omni"], Some(error));
        let second = Judge::new("two", &["omni"], None);
        let aliases: [(&str, &[&str]); 1] = [("safe", &["two/omni", "one/omni"])];
        let bench = bench_of(&[first.clone(), second.clone()], &aliases);
        let made = judged(&bench, Some("omni")).await;
        assert_eq!(first.asked().len(), 1);
        assert_eq!(made.err().map(|it| it.fault.as_label()), outcome);
        let made = judged(&bench, Some("safe")).await.unwrap();
        assert_eq!(made.route.to_string(), "cloud:two");
        assert_eq!(first.asked().len(), 1);
    }
}

#[tokio::test]
async fn who_judges_is_told_from_who_does_not() {
    let judge = Judge::new("fake", &["omni"], None);
    let bench = bench_of(std::slice::from_ref(&judge), &[("chats", &["fake/big"])]);
    assert!(bench.pipeline.moderates());
    let listed = bench.pipeline.models(&Principal::anyone());
    assert!(listed.iter().any(|model| model.id == "fake/omni"));
    for (model, label) in [
        ("fake/big", "bad_request"),
        ("chats", "bad_request"),
        ("nobody", "model_not_found"),
        ("other/omni", "model_not_found"),
    ] {
        let refusal = judged(&bench, Some(model)).await.unwrap_err();
        assert_eq!(refusal.fault.as_label(), label, "{model}");
    }
    let key = Principal {
        models: Some(vec!["other".into()]),
        ..Principal::anyone()
    };
    for model in [None, Some("omni")] {
        let request = request(model, &["a"]);
        let refused = bench
            .pipeline
            .moderate(&key, "r-1".into(), &[], request)
            .await;
        assert_eq!(refused.unwrap_err().fault.as_label(), "forbidden");
    }
    assert!(judge.asked().is_empty());

    let bench = bench_of(&[Judge::new("fake", &[], None)], &[]);
    assert!(!bench.pipeline.moderates());
    let refusal = judged(&bench, None).await.unwrap_err();
    assert_eq!(refusal.fault.as_label(), "not_offered");
}

#[tokio::test]
async fn a_moderation_is_of_a_trace_and_of_the_route_that_names_its_model() {
    let judge = Judge::new("fake", &["omni"], None);
    let mut bench = bench_of(std::slice::from_ref(&judge), &[]);
    bench.pipeline = bench.pipeline.traced_by(Tracer::new(1.0));
    judged(&bench, None).await.unwrap();
    let traced = bench.records.recv().await.unwrap().trace.unwrap();
    assert_eq!((traced.operation, traced.is_chat), ("moderation", false));
    let narrow = |routes: &[&str]| Principal {
        routes: Some(routes.iter().map(|it| (*it).to_owned()).collect()),
        ..Principal::anyone()
    };
    for (key, is_granted) in [
        (narrow(&["default"]), false),
        (narrow(&["model-named"]), true),
    ] {
        let asked = request(None, &["plain"]);
        let judged = bench
            .pipeline
            .moderate(&key, "r-1".into(), &[], asked)
            .await;
        assert_eq!(judged.is_ok(), is_granted);
    }
}
