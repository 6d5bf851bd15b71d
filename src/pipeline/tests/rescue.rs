//! Replies that break off, and who goes on with them.

use super::*;

const TEXT: &str = "The first  line,\nand écran: a a aa.\n\n\tThen 天気 <b> ends \n";

/// How one call goes.
#[derive(Clone)]
enum Way {
    /// Says the rest of its text.
    Whole,
    /// Says so many characters more, then fails.
    Cut(usize, BackendError),
    /// Says everything, and fails instead of the usage.
    CutAtEnd,
    /// Begins a call after so many characters, then fails.
    Call(usize),
    Refuse(BackendError),
    /// Never says anything.
    Hang,
    /// Thinks, and fails before it says anything.
    Think,
}

/// A model that always says the same: what is left of its text after what it was begun with.
struct Teller {
    card: BackendCard,
    text: String,
    resume: Resume,
    /// The last one goes on for ever.
    ways: Mutex<Vec<Way>>,
    calls: Mutex<Vec<Outbound>>,
}

impl Teller {
    fn new(name: &str, model: &str, trust: Trust, resume: Resume, ways: &[Way]) -> Arc<Self> {
        Self::saying(TEXT, name, model, trust, resume, ways)
    }

    fn saying(
        text: &str,
        name: &str,
        model: &str,
        trust: Trust,
        resume: Resume,
        ways: &[Way],
    ) -> Arc<Self> {
        let mut card = Fake::new(name, trust, Script::Empty).card.clone();
        card.models[0].name = model.to_owned();
        Arc::new(Self {
            card,
            text: text.to_owned(),
            resume,
            ways: Mutex::new(ways.to_vec()),
            calls: Mutex::default(),
        })
    }

    fn calls(&self) -> Vec<Outbound> {
        self.calls.lock().unwrap().clone()
    }

    /// What it was begun with in its `at`th call.
    fn shown(&self, at: usize) -> String {
        begun(self.calls()[at].request())
    }
}

fn begun(request: &ChatRequest) -> String {
    let said = |it: &&Message| it.role == Role::Assistant;
    request
        .messages
        .iter()
        .find(said)
        .map(Message::text)
        .unwrap_or_default()
}

#[async_trait]
impl Backend for Teller {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let way = {
            let mut ways = self.ways.lock().unwrap();
            if ways.len() > 1 {
                ways.remove(0)
            } else {
                ways[0].clone()
            }
        };
        let shown = begun(call.request());
        assert_eq!(
            call.is_resuming(),
            !shown.is_empty() && self.resume != Resume::Told,
            "what is gone on with is marked, and nothing else"
        );
        let prompt = call.request().messages.len() as u32;
        self.calls.lock().unwrap().push(call);
        let rest = match self.resume {
            Resume::Repeating => self.text.clone(),
            Resume::Never | Resume::Exact | Resume::Told => {
                let rest = self.text.strip_prefix(shown.as_str());
                rest.expect("it is begun with its own words").to_owned()
            }
        };
        let says = |text: &str| {
            let piece = |letter: char| {
                Ok(ChatEvent::Text {
                    choice: 0,
                    text: letter.to_string(),
                })
            };
            text.chars().map(piece).collect::<Vec<_>>()
        };
        let started = Ok(ChatEvent::Started(Started {
            model: self.card.models[0].name.clone(),
            reply_id: None,
            fingerprint: None,
        }));
        let mut events = vec![started];
        let head = |chars: usize| rest.chars().take(chars).collect::<String>();
        match way {
            Way::Whole | Way::CutAtEnd => {
                events.extend(says(&rest));
                events.push(Ok(ChatEvent::ChoiceEnded {
                    choice: 0,
                    reason: FinishReason::Stop,
                }));
                events.push(match way {
                    Way::CutAtEnd => Err(BackendError::Interrupted),
                    _ => Ok(ChatEvent::Usage(Usage {
                        prompt_tokens: Tokens(100 * prompt),
                        completion_tokens: Tokens(10),
                        ..Usage::default()
                    })),
                });
            }
            Way::Cut(chars, error) => {
                events.extend(says(&head(chars)));
                events.push(Err(error));
            }
            Way::Call(chars) => {
                events.extend(says(&head(chars)));
                events.push(Ok(ChatEvent::ToolCall {
                    choice: 0,
                    index: 0,
                    part: ToolCallPart {
                        id: Some("c".into()),
                        name: Some("f".into()),
                        arguments: "{\"a\":".into(),
                        seal: None,
                    },
                }));
                events.push(Err(BackendError::Interrupted));
            }
            Way::Think => {
                events.push(Ok(ChatEvent::Thought {
                    choice: 0,
                    text: "hm".into(),
                }));
                events.push(Err(BackendError::Interrupted));
            }
            Way::Refuse(error) => return Err(error),
            Way::Hang => return Ok(stream::pending().boxed()),
        }
        Ok(stream::iter(events).boxed())
    }

    fn resume(&self, _model: &str) -> Resume {
        self.resume
    }
}

fn cut(chars: usize) -> Way {
    Way::Cut(chars, BackendError::Interrupted)
}

fn routes(rescue: &str) -> String {
    format!(
        "default = 'all'\nrescue = '{rescue}'\n[outcomes.all]\ncandidates = ['a/big', 'b', 'local']\n"
    )
}

fn bench_of(rescue: &str, backends: Vec<Arc<dyn Backend>>, rules: RescueRules) -> Bench {
    let snapshot = snapshot_of(&routes(rescue), backends).with_rescue(rules);
    bench_with(snapshot, 8)
}

fn tellers(tellers: &[&Arc<Teller>]) -> Vec<Arc<dyn Backend>> {
    let tellers = tellers.iter().map(|it| Arc::clone(it) as Arc<dyn Backend>);
    tellers.collect()
}

/// An asker that streams, as those do who see replies break off.
fn asked() -> Parsed {
    let mut parsed = parsed("auto", "question");
    parsed.request.delivery = Delivery::Streamed {
        includes_usage: true,
    };
    parsed
}

/// What the caller reads, and the error at the end if there is one. Every stream keeps the grammar.
async fn read(answer: Answer) -> (String, Option<BackendError>, Option<Usage>) {
    let mut grammar = Grammar::default();
    let (mut text, mut usage) = (String::new(), None);
    let events: Vec<_> = answer.stream.collect().await;
    for event in events {
        let event = match event {
            Ok(event) => event,
            Err(error) => return (text, Some(error), usage),
        };
        grammar.take(&event).unwrap();
        match event {
            ChatEvent::Text { text: more, .. } => text.push_str(&more),
            ChatEvent::Usage(found) => usage = Some(found),
            _ => {}
        }
    }
    grammar.finish().unwrap();
    (text, None, usage)
}

#[tokio::test(start_paused = true)]
async fn wherever_a_reply_breaks_off_the_same_model_goes_on_without_a_letter_lost_or_repeated() {
    let count = TEXT.chars().count();
    for resume in [Resume::Exact, Resume::Repeating] {
        for at in 1..count {
            let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[cut(at)]);
            let b = Teller::new("b", "big", Trust::Public, resume, &[Way::Whole]);
            let mut bench = bench_of("same-model", tellers(&[&a, &b]), RescueRules::default());
            let answer = bench.pipeline.run(asked()).await.unwrap();
            assert_eq!(answer.route.to_string(), "cloud:a");
            let rescues = answer.rescues.clone().unwrap();
            let (text, error, _) = read(answer).await;
            assert_eq!((text.as_str(), error.is_none()), (TEXT, true), "{at}");
            let told: Vec<String> = rescues.take().iter().map(ToString::to_string).collect();
            assert_eq!(told, ["cloud:b; after=interrupted"]);
            assert!(rescues.take().is_empty(), "each is told once");
            let record = bench.records.recv().await.unwrap();
            assert_eq!(record.outcome, Outcome::Answered);
            assert_eq!(record.route.unwrap().backend.as_str(), "a");
            assert_eq!(record.rescued_by[0].backend.as_str(), "b");
            assert!(bench.cache.0.lock().unwrap().is_empty(), "stitched");
        }
    }
}

/// The seed is fixed, so that a failure can be looked at again.
#[tokio::test(start_paused = true)]
async fn two_hundred_replies_that_break_off_anywhere_and_again_are_all_finished() {
    let mut random = Seeded(20_261_128);
    let count = TEXT.chars().count();
    for run in 0..200 {
        let ways = |random: &mut Seeded, cuts: usize| {
            let mut ways: Vec<Way> = (0..cuts).map(|_| cut(1 + random.below(count))).collect();
            ways.push(Way::Whole);
            ways
        };
        let (first, second) = (ways(&mut random, 1), ways(&mut random, run % 2));
        let a = Teller::new("a", "big", Trust::Public, Resume::Repeating, &first);
        let b = Teller::new("b", "big", Trust::Public, Resume::Exact, &second);
        let bench = bench_of("any", tellers(&[&a, &b]), RescueRules::default());
        let answer = bench.pipeline.run(asked()).await.unwrap();
        let (text, error, _) = read(answer).await;
        assert_eq!((text.as_str(), error.is_none()), (TEXT, true), "run {run}");
    }
}

/// Knuth's generator of 64 bits (MMIX): the same numbers everywhere.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: usize) -> usize {
        let (factor, more) = (6_364_136_223_846_793_005, 1_442_695_040_888_963_407);
        self.0 = self.0.wrapping_mul(factor).wrapping_add(more);
        (self.0 >> 33) as usize % end
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_go_on_is_what_the_route_says_and_who_can() {
    let cases = [
        // Who speaks first, as others would be asked by the route: a/big, b/other, local/tiny.
        ("off", Resume::Exact, Resume::Exact, None),
        ("same-model", Resume::Never, Resume::Exact, None),
        // The one that broke off goes on itself.
        ("same-model", Resume::Exact, Resume::Exact, Some("a")),
        ("any", Resume::Exact, Resume::Exact, Some("a")),
        ("any", Resume::Never, Resume::Exact, Some("b")),
        ("any", Resume::Never, Resume::Never, Some("local")),
        // Told comes after all who go on exactly.
        ("any", Resume::Told, Resume::Never, Some("local")),
        ("same-model", Resume::Told, Resume::Never, None),
    ];
    for (rescue, of_a, of_b, expected) in cases {
        let a = Teller::new("a", "big", Trust::Public, of_a, &[cut(9), Way::Whole]);
        let b = Teller::new("b", "other", Trust::Public, of_b, &[Way::Whole]);
        let local = Teller::new("local", "tiny", Trust::Device, Resume::Exact, &[Way::Whole]);
        let backends = tellers(&[&local, &a, &b]);
        let mut bench = bench_of(rescue, backends, RescueRules::default());
        let answer = bench.pipeline.run(asked()).await.unwrap();
        let (text, error, _) = read(answer).await;
        let record = bench.records.recv().await.unwrap();
        let by = record.rescued_by.first().map(|it| it.backend.to_string());
        assert_eq!(by.as_deref(), expected, "{rescue} {of_a:?} {of_b:?}");
        assert_eq!(error.is_none(), expected.is_some());
        if expected.is_some() {
            assert_eq!(text, TEXT);
        } else {
            assert_eq!(record.outcome, Outcome::BrokenOff("interrupted"));
            let why = (rescue != "off").then_some("nobody");
            assert_eq!(record.unrescued, why);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_go_on_with_exactly_stays_broken_off() {
    type Change = fn(&mut ChatRequest);
    let cases: [(&str, Change, Way); 7] = [
        ("choices", |request| request.choices = 2, cut(5)),
        (
            "logprobs",
            |request| request.sampling.logprobs = Some(1),
            cut(5),
        ),
        (
            "format",
            |request| request.format = OutputFormat::JsonObject,
            cut(5),
        ),
        (
            "forced_call",
            |request| request.tool_choice = ToolChoice::Required,
            cut(5),
        ),
        ("tool_call", |_| {}, Way::Call(5)),
        ("too_long", |_| {}, cut(40)),
        (
            "cause",
            |_| {},
            Way::Cut(5, BackendError::Credentials { status: 401 }),
        ),
    ];
    for (why, change, way) in cases {
        let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[way]);
        let b = Teller::new("b", "big", Trust::Public, Resume::Exact, &[Way::Whole]);
        let rules = RescueRules {
            text_bytes_max: 30,
            ..RescueRules::default()
        };
        let mut bench = bench_of("any", tellers(&[&a, &b]), rules);
        let mut parsed = asked();
        change(&mut parsed.request);
        let answer = bench.pipeline.run(parsed).await.unwrap();
        let (_, error, _) = read(answer).await;
        assert!(error.is_some(), "{why}");
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.unrescued, Some(why));
        assert!(b.calls().is_empty() && record.rescued_by.is_empty());
    }
}

/// Which of the two messages would be the answer's beginning, backends see in two ways.
#[tokio::test(start_paused = true)]
async fn an_answer_that_the_caller_began_is_not_gone_on_with() {
    let a = Fake::new("a", Trust::Public, Script::Breaks("half"));
    let b = Fake::new("b", Trust::Public, Script::Says("whole"));
    let snapshot = snapshot_of(&routes("any"), vec![a as Arc<dyn Backend>, b.clone()]);
    let mut bench = bench_with(snapshot, 8);
    let mut parsed = asked();
    let began = Message::new(Role::Assistant, "The");
    parsed.request.messages.push(began);
    let answer = bench.pipeline.run(parsed).await.unwrap();
    assert!(answer.rescues.is_none());
    assert!(read(answer).await.1.is_some());
    assert!(b.calls().is_empty());
    assert_eq!(bench.records.recv().await.unwrap().unrescued, Some("begun"));
}

#[tokio::test(start_paused = true)]
async fn the_caller_gets_back_its_values_wherever_the_reply_breaks_off() {
    let said = "Write to <EMAIL_1>, not to <b>.";
    let read_as = "Write to ann@example.org, not to <b>.";
    for at in 1..said.chars().count() {
        // Somebody public, who has read the placeholder, and this machine, which reads the value.
        for (trust, text) in [(Trust::Public, said), (Trust::Device, read_as)] {
            let a = Teller::saying(said, "a", "big", Trust::Public, Resume::Never, &[cut(at)]);
            let b = Teller::saying(text, "b", "big", trust, Resume::Exact, &[Way::Whole]);
            let bench = bench_of("any", tellers(&[&a, &b]), RescueRules::default());
            let mut parsed = asked();
            parsed.request.messages = vec![Message::new(Role::User, "mail ann@example.org")];
            let answer = bench.pipeline.run(parsed).await.unwrap();
            let (found, error, _) = read(answer).await;
            assert_eq!((found.as_str(), error.is_none()), (read_as, true), "{at}");
            let is_masked = !b.shown(0).contains("ann@");
            assert!(is_masked || trust == Trust::Device);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_of_hidden_values_goes_to_nobody_who_may_not_see_them() {
    // This machine has read the value and may have said anything of it.
    let local = Teller::new("local", "tiny", Trust::Device, Resume::Never, &[cut(9)]);
    let b = Teller::new("b", "tiny", Trust::Public, Resume::Exact, &[Way::Whole]);
    let routes = "default = 'all'\nrescue = 'any'\n[outcomes.all]\ncandidates = ['local', 'b']\n";
    let mut bench = bench_with(snapshot_of(routes, tellers(&[&local, &b])), 8);
    let mut parsed = asked();
    parsed.request.messages = vec![Message::new(Role::User, "mail ann@example.org")];
    let answer = bench.pipeline.run(parsed).await.unwrap();
    assert!(read(answer).await.1.is_some());
    assert!(b.calls().is_empty());
    assert_eq!(
        bench.records.recv().await.unwrap().unrescued,
        Some("nobody")
    );

    // The reply holds a value that the request does not.
    let said = "Ask bob@example.org about it.";
    let a = Teller::saying(said, "a", "big", Trust::Public, Resume::Never, &[cut(25)]);
    let b = Teller::saying(
        said,
        "b",
        "big",
        Trust::Public,
        Resume::Exact,
        &[Way::Whole],
    );
    let local = Teller::saying(
        said,
        "local",
        "tiny",
        Trust::Device,
        Resume::Exact,
        &[Way::Whole],
    );
    let bench = bench_of("any", tellers(&[&local, &a, &b]), RescueRules::default());
    let answer = bench.pipeline.run(asked()).await.unwrap();
    assert_eq!(read(answer).await.0, said);
    assert!(b.calls().is_empty());
    assert_eq!(local.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tries_are_bounded_and_the_first_error_is_told() {
    let refuse = Way::Refuse(BackendError::Failed { status: 500 });
    for (attempts_max, ways, why, asked_b) in [
        (2, vec![cut(3), refuse.clone()], "failed", 1),
        (1, vec![cut(3), refuse.clone()], "spent", 1),
        (0, vec![cut(3)], "spent", 0),
        (
            3,
            vec![cut(3), Way::Cut(2, BackendError::Interrupted)],
            "spent",
            1,
        ),
    ] {
        let a = Teller::new("a", "big", Trust::Public, Resume::Exact, &ways);
        let b = Teller::new(
            "b",
            "big",
            Trust::Public,
            Resume::Exact,
            std::slice::from_ref(&refuse),
        );
        let rules = RescueRules {
            attempts_max,
            ..RescueRules::default()
        };
        let mut bench = bench_of("same-model", tellers(&[&a, &b]), rules);
        let answer = bench.pipeline.run(asked()).await.unwrap();
        let (_, error, _) = read(answer).await;
        assert!(matches!(error, Some(BackendError::Interrupted)));
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.unrescued, Some(why), "{attempts_max}");
        assert!(b.calls().len() >= asked_b && b.calls().len() <= attempts_max as usize);
        assert!(a.calls().len() <= 1 + attempts_max as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_left_is_asked_for_and_the_request_is_otherwise_the_same() {
    let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[cut(20)]);
    let b = Teller::new("b", "big", Trust::Public, Resume::Exact, &[Way::Whole]);
    let bench = bench_of("any", tellers(&[&a, &b]), RescueRules::default());
    let mut parsed = asked();
    parsed.request.output_tokens_max = Some(Tokens(50));
    parsed.request.sampling.seed = Some(7);
    read(bench.pipeline.run(parsed).await.unwrap()).await;
    let said: String = TEXT.chars().take(20).collect();
    let calls = b.calls();
    let request = calls[0].request();
    let left = 50 - policy::count_tokens(&said) as u32;
    assert_eq!(request.output_tokens_max, Some(Tokens(left)));
    assert_eq!(request.sampling.seed, Some(7));
    assert_eq!(request.messages.len(), 2);
    assert_eq!(begun(request), said.trim_end());
}

#[tokio::test(start_paused = true)]
async fn each_has_its_share_of_the_usage_and_the_caller_reads_of_one_reply() {
    let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[cut(20)]);
    let b = Teller::new("b", "big", Trust::Public, Resume::Exact, &[Way::Whole]);
    let mut bench = bench_of("any", tellers(&[&a, &b]), RescueRules::default());
    let answer = bench.pipeline.run(asked()).await.unwrap();
    let (_, _, usage) = read(answer).await;
    let usage = usage.unwrap();
    let record = bench.records.recv().await.unwrap();
    let [of_a, of_b] = record.shares.as_slice() else {
        panic!("{:?}", record.shares);
    };
    assert!(of_a.is_estimate && !of_b.is_estimate && record.is_usage_counted);
    assert_eq!(of_a.route.backend.as_str(), "a");
    assert!(of_a.usage.prompt_tokens.0 > 0 && of_a.usage.completion_tokens.0 > 0);
    assert_eq!(of_b.usage.prompt_tokens, Tokens(200));
    let sum = record.usage.unwrap();
    assert_eq!(
        sum.prompt_tokens.0,
        of_a.usage.prompt_tokens.0 + of_b.usage.prompt_tokens.0
    );
    assert_eq!(
        sum.completion_tokens.0,
        of_a.usage.completion_tokens.0 + of_b.usage.completion_tokens.0
    );
    let said = of_a.usage.completion_tokens.0;
    assert_eq!(usage.prompt_tokens, Tokens(200 - said));
    assert_eq!(usage.completion_tokens, Tokens(said + 10));
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_had_ended_is_whole_and_nobody_is_asked() {
    let a = Teller::new("a", "big", Trust::Public, Resume::Exact, &[Way::CutAtEnd]);
    let mut bench = bench_of("any", tellers(&[&a]), RescueRules::default());
    let answer = bench.pipeline.run(asked()).await.unwrap();
    let (text, error, usage) = read(answer).await;
    assert_eq!((text.as_str(), error.is_none(), usage), (TEXT, true, None));
    assert_eq!(a.calls().len(), 1);
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.outcome, Outcome::Answered);
    assert!(bench.cache.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_thought_is_not_gone_on_with_and_the_answer_is_asked_for_anew() {
    let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[Way::Think]);
    let b = Teller::new("b", "big", Trust::Public, Resume::Never, &[Way::Whole]);
    let bench = bench_of("any", tellers(&[&a, &b]), RescueRules::default());
    let answer = bench.pipeline.run(asked()).await.unwrap();
    let reply = collect(answer.stream).await.unwrap();
    assert_eq!(reply.choices[0].thoughts(), "hm");
    assert_eq!(reply.choices[0].text(), TEXT);
    assert_eq!(b.calls()[0].request().messages.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_gives_way_to_the_next() {
    let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[cut(9)]);
    let b = Teller::new("b", "big", Trust::Public, Resume::Exact, &[Way::Hang]);
    let local = Teller::new("local", "tiny", Trust::Device, Resume::Exact, &[Way::Whole]);
    let mut bench = bench_of("any", tellers(&[&local, &a, &b]), RescueRules::default());
    let answer = bench.pipeline.run(asked()).await.unwrap();
    assert_eq!(read(answer).await.0, TEXT);
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.failed_candidates, [("b".into(), "timed_out")]);
    assert_eq!(record.rescued_by[0].model, "tiny");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_in_between_ends_the_search() {
    let a = Teller::new("a", "big", Trust::Public, Resume::Never, &[cut(9)]);
    let b = Teller::new("b", "big", Trust::Public, Resume::Exact, &[Way::Hang]);
    let mut bench = bench_of("any", tellers(&[&a, &b]), RescueRules::default());
    let mut answer = bench.pipeline.run(asked()).await.unwrap();
    // `Started` and nine letters; then b is asked, and says nothing.
    for _ in 0..10 {
        answer.stream.next().await.unwrap().unwrap();
    }
    assert!(futures::poll!(answer.stream.next()).is_pending());
    assert_eq!(b.calls().len(), 1);
    drop(answer);
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.outcome, Outcome::Abandoned);
    assert_eq!(bench.pipeline.exchanges_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_another_may_go_on_every_event_is_written_anew() {
    for (rescue, written) in [("off", 2), ("any", 0)] {
        let a = Fake::new("a", Trust::Public, Script::Writes("hello"));
        let b = Fake::new("b", Trust::Public, Script::Says("there"));
        let local = Fake::new("local", Trust::Device, Script::Says("here"));
        let bench = bench_of(rescue, vec![a, b, local], RescueRules::default());
        let mut asked = parsed("auto", "question");
        asked.request.delivery = Delivery::Streamed {
            includes_usage: false,
        };
        let answer = bench.pipeline.run(asked).await.unwrap();
        assert_eq!(answer.route.to_string(), "cloud:a", "{rescue}");
        assert_eq!(written_count(answer).await, written, "{rescue}");
    }
}
