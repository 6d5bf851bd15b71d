//! What exchanges say is kept as the rules have it, and in no other way.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const ANNA: &str = "anna@a.example";

#[derive(Default)]
struct Shelf {
    kept: Mutex<Vec<KeptText>>,
    is_broken: AtomicBool,
}

#[async_trait]
impl TextShelf for Shelf {
    async fn keep(&self, texts: &[KeptText]) -> Result<(), TextFault> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(TextFault::Busy);
        }
        self.kept.lock().unwrap().extend_from_slice(texts);
        Ok(())
    }

    async fn find(&self, _: &str, _: u32) -> Result<Vec<FoundText>, TextFault> {
        Ok(Vec::new())
    }

    async fn of(
        &self,
        _: &Subject,
        _: &Mark,
        _: u32,
        _: Option<i64>,
    ) -> Result<Vec<FoundText>, TextFault> {
        Ok(Vec::new())
    }

    async fn erase(&self, _: &Subject, _: &Mark) -> Result<u64, TextFault> {
        Ok(0)
    }
}

fn rules(view: TextView) -> TextRules {
    TextRules {
        teams: None,
        view,
        keep: Duration::from_secs(86_400),
        text_bytes_max: 64 * 1024,
    }
}

struct Keeping {
    bench: Bench,
    texts: Arc<Texts>,
    shelf: Arc<Shelf>,
    running: tokio::task::JoinSet<()>,
}

/// With what `local` and the cloud say.
fn keeping(local: Script, cloud: Script, rules: Option<TextRules>) -> Keeping {
    let cloud = Fake::new("fake", Trust::Public, cloud);
    let local = Fake::new("local", Trust::Device, local);
    let mut bench = bench(vec![local, cloud], 16);
    let shelf = Arc::new(Shelf::default());
    let (texts, writer) = Texts::new(Arc::clone(&shelf) as _);
    texts.set_rules(rules);
    bench.pipeline = bench.pipeline.keeping(Arc::clone(&texts));
    let mut running = tokio::task::JoinSet::new();
    running.spawn(writer.run());
    Keeping {
        bench,
        texts,
        shelf,
        running,
    }
}

impl Keeping {
    async fn ask(&self, model: &str, text: &str) {
        let answer = self.bench.pipeline.run(parsed(model, text)).await.unwrap();
        let events: Vec<_> = answer.stream.collect().await;
        assert!(!events.is_empty());
    }

    async fn kept(&self) -> Vec<KeptText> {
        assert!(self.texts.until_settled().await);
        std::mem::take(&mut *self.shelf.kept.lock().unwrap())
    }

    /// The only one, as question and answer.
    async fn only(&self) -> (String, String) {
        let kept = self.kept().await;
        let [text] = kept.as_slice() else {
            panic!("{} are kept", kept.len());
        };
        let answered = text.said.answered.first();
        let answered = answered.map(|it| it.text.clone()).unwrap_or_default();
        (text.said.asked[0].text.clone(), answered)
    }
}

fn two(asked: impl Into<String>, answered: impl Into<String>) -> (String, String) {
    (asked.into(), answered.into())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_without_rules_and_of_teams_that_are_not_meant() {
    let red = TextRules {
        teams: Some(vec!["red".into()]),
        ..rules(TextView::Masked)
    };
    for rules in [None, Some(red)] {
        let keeping = keeping(Script::Echoes, Script::Echoes, rules);
        keeping.ask("auto", "hello").await;
        assert!(keeping.kept().await.is_empty());
        assert_eq!(keeping.texts.counts(), TextCounts::default());
    }
    let keeping = keeping(
        Script::Echoes,
        Script::Echoes,
        Some(rules(TextView::Masked)),
    );
    keeping.ask("auto", "hello").await;
    assert_eq!(keeping.only().await, two("hello", "hello"));
}

#[tokio::test(start_paused = true)]
async fn personal_data_is_masked_whoever_answers_and_whatever_is_made_up() {
    let masked = || Some(rules(TextView::Masked));
    let asked = format!("write to {ANNA}");
    // Who reads it as it is, and who reads placeholders.
    for model in ["local", "fake/big"] {
        let keeping = keeping(Script::Echoes, Script::Echoes, masked());
        keeping.ask(model, &asked).await;
        let expected = "write to <EMAIL_1>";
        assert_eq!(keeping.only().await, two(expected, expected), "{model}");
    }
    let keeping = keeping(
        Script::Says("ask anna@a.example or ben@b.example"),
        Script::Hangs,
        masked(),
    );
    keeping.ask("local", &asked).await;
    let expected = two("write to <EMAIL_1>", "ask <EMAIL_1> or <EMAIL_2>");
    assert_eq!(keeping.only().await, expected);
}

#[tokio::test(start_paused = true)]
async fn raw_is_what_was_said_also_from_the_cache_and_of_a_flight() {
    let keeping = keeping(
        Script::Hangs,
        Script::SaysAfter(Duration::from_secs(1), "yes"),
        Some(rules(TextView::Raw)),
    );
    let asked = format!("is it {ANNA}?");
    tokio::join!(
        keeping.ask("fake/big", &asked),
        keeping.ask("fake/big", &asked)
    );
    keeping.ask("fake/big", &asked).await;
    let kept = keeping.kept().await;
    assert_eq!(kept.len(), 3);
    for text in &kept {
        assert_eq!(text.said.asked[0].text, asked);
        assert_eq!(text.said.answered[0].text, "yes");
        assert_eq!(text.said.view, "raw");
        assert_eq!(text.until_us - text.ended_us, 86_400_000_000);
        assert!(!text.said.is_cut);
    }
    assert_eq!(keeping.texts.counts().written, 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_is_kept_of_a_reply_that_did_not_end() {
    // A value that the end divides is no value any more, and is not kept either.
    let keeping = keeping(
        Script::Breaks("it is anna@a.exa"),
        Script::Breaks("yes and "),
        Some(rules(TextView::Masked)),
    );
    keeping.ask("local", &format!("who is {ANNA}?")).await;
    assert_eq!(keeping.only().await, two("who is <EMAIL_1>?", "it is "));
    keeping.ask("fake/big", "and?").await;
    assert_eq!(keeping.only().await, two("and?", "yes and "));

    let keeping = self::keeping(Script::Echoes, Script::Hangs, Some(rules(TextView::Masked)));
    let answer = keeping.bench.pipeline.run(parsed("local", "abcdef"));
    let mut stream = answer.await.unwrap().stream;
    let mut heard = String::new();
    while heard != "abc" {
        if let ChatEvent::Text { text, .. } = stream.next().await.unwrap().unwrap() {
            heard.push_str(&text);
        }
    }
    drop(stream);
    assert_eq!(keeping.only().await, two("abcdef", "abc"));

    // Nobody answers.
    let keeping = self::keeping(Script::Down, Script::Down, Some(rules(TextView::Masked)));
    let refused = keeping.bench.pipeline.run(parsed("auto", "hello?")).await;
    assert!(refused.is_err());
    assert_eq!(keeping.only().await, two("hello?", ""));
}

/// A reply that may be no longer was whole to whoever kept it, and the beginning of a value was kept.
#[tokio::test(start_paused = true)]
async fn a_value_that_the_length_of_a_reply_divides_is_not_kept() {
    let keeping = keeping(
        Script::RunsOut("it is anna@a"),
        Script::Hangs,
        Some(rules(TextView::Masked)),
    );
    keeping.ask("local", &format!("who is {ANNA}?")).await;
    assert_eq!(keeping.only().await, two("who is <EMAIL_1>?", "it is "));
}

/// Questions of exchanges under way were held without a bound of their own.
#[tokio::test(start_paused = true)]
async fn questions_under_way_are_bounded_too() {
    let keeping = keeping(
        Script::Says("yes"),
        Script::Hangs,
        Some(rules(TextView::Raw)),
    );
    let text = "x".repeat(TEXTS_UNDER_WAY_BYTES_MAX / 3);
    let long = ChatRequest::new("m", vec![Message::new(Role::User, text)]);
    let short = ChatRequest::new("m", vec![Message::new(Role::User, "short")]);
    let begin = |request: &ChatRequest| {
        let mut begun = keeping.texts.begin(&"red".into()).unwrap();
        begun.note_asked(request, &Arc::default(), &keeping.bench.pipeline.snapshot());
        begun
    };
    let two = (begin(&long), begin(&long));
    assert_eq!(keeping.texts.counts().dropped, 0);
    drop(begin(&long));
    assert_eq!(keeping.texts.counts().dropped, 1);
    drop(begin(&short));
    assert_eq!(keeping.texts.counts().dropped, 1);
    drop(two);
    drop(begin(&long));
    assert_eq!(keeping.texts.counts().dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_reply_is_cut_where_no_value_can_be_divided() {
    // Addresses from end to end: wherever the cut is, it is in one.
    let long: String = "anna@a.example ".repeat(20_000);
    let keeping = keeping(
        Script::Says(long.leak()),
        Script::Hangs,
        Some(rules(TextView::Masked)),
    );
    keeping.ask("local", "whom?").await;
    let kept = keeping.kept().await;
    let said = &kept[0].said;
    assert!(said.is_cut);
    let bytes = said.answered[0].text.len();
    assert!((16 * 1024..=64 * 1024).contains(&bytes), "{bytes}");
    assert!(said.answered[0].text.starts_with("<EMAIL_1> <EMAIL_1> "));
    assert!(!said.answered[0].text.contains("anna"));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_texts_and_no_record() {
    let mut keeping = keeping(
        Script::Says("yes"),
        Script::Hangs,
        Some(rules(TextView::Raw)),
    );
    keeping.running.abort_all();
    while keeping.running.join_next().await.is_some() {}
    let more = 5;
    // Each takes more than a hundredth of what the queue may have.
    let long = "x".repeat(TEXT_QUEUE_BYTES_MAX / 100);
    for _ in 0..100 + more {
        keeping.ask("local", &long).await;
        let record = keeping.bench.records.recv().await.unwrap();
        assert_eq!(record.outcome, Outcome::Answered);
    }
    let counts = keeping.texts.counts();
    assert!(counts.dropped >= more, "{counts:?}");
    assert_eq!(counts.dropped + counts.written, 100 + more);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_tried_again_until_the_node_ends() {
    let mut keeping = keeping(
        Script::Says("yes"),
        Script::Hangs,
        Some(rules(TextView::Raw)),
    );
    keeping.shelf.is_broken.store(true, Ordering::Relaxed);
    keeping.ask("local", "one").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(keeping.texts.counts().is_failing);
    keeping.shelf.is_broken.store(false, Ordering::Relaxed);
    assert_eq!(keeping.only().await, two("one", "yes"));
    assert!(!keeping.texts.counts().is_failing);

    // What was made under rules that hold no more is not kept under stricter ones.
    keeping.shelf.is_broken.store(true, Ordering::Relaxed);
    keeping.ask("local", "raw").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    keeping.texts.set_rules(Some(rules(TextView::Masked)));
    keeping.shelf.is_broken.store(false, Ordering::Relaxed);
    assert!(keeping.kept().await.is_empty());

    keeping.ask("local", "two").await;
    keeping.texts.close();
    while keeping.running.join_next().await.is_some() {}
    assert_eq!(
        keeping.only().await,
        two("two", "yes"),
        "written at the end"
    );

    let mut keeping = self::keeping(
        Script::Says("yes"),
        Script::Hangs,
        Some(rules(TextView::Raw)),
    );
    keeping.shelf.is_broken.store(true, Ordering::Relaxed);
    keeping.ask("local", "three").await;
    keeping.texts.close();
    while keeping.running.join_next().await.is_some() {}
    let counts = keeping.texts.counts();
    assert_eq!((counts.written, counts.dropped), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn rules_that_come_later_hold_for_what_is_under_way_where_they_are_stricter() {
    let keeping = keeping(Script::Echoes, Script::Hangs, Some(rules(TextView::Raw)));
    let begin = async || {
        let asked = parsed("local", ANNA);
        keeping.bench.pipeline.run(asked).await.unwrap().stream
    };
    let stream = begin().await;
    keeping.texts.set_rules(Some(rules(TextView::Masked)));
    drop(stream.collect::<Vec<_>>().await);
    assert_eq!(keeping.only().await, two("<EMAIL_1>", "<EMAIL_1>"));
    let stream = begin().await;
    keeping.texts.set_rules(Some(rules(TextView::Raw)));
    drop(stream.collect::<Vec<_>>().await);
    assert_eq!(keeping.only().await, two("<EMAIL_1>", "<EMAIL_1>"));
    let stream = begin().await;
    keeping.texts.set_rules(None);
    drop(stream.collect::<Vec<_>>().await);
    assert!(keeping.kept().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_picture_is_counted_and_calls_are_kept() {
    let keeping = keeping(
        Script::Says("a cat"),
        Script::Hangs,
        Some(rules(TextView::Masked)),
    );
    let mut asked = parsed("local", "what is it?");
    let message = &mut asked.request.messages[0];
    message.content.push(Part::Image(Image {
        url: "data:image/png;base64,QUJD".to_owned(),
        detail: None,
    }));
    let mut called = Message::new(Role::Assistant, "");
    called.tool_calls.push(ToolCall {
        id: "call_1".to_owned(),
        name: "send".to_owned(),
        arguments: format!(r#"{{"to": "{ANNA}"}}"#),
        seal: None,
    });
    asked.request.messages.push(called);
    let answer = keeping.bench.pipeline.run(asked).await.unwrap();
    drop(answer.stream.collect::<Vec<_>>().await);
    let kept = keeping.kept().await;
    let said = &kept[0].said;
    assert_eq!(said.asked[0].attachments, 1);
    assert_eq!(
        said.asked[1].tool_calls[0].arguments,
        r#"{"to": "<EMAIL_1>"}"#
    );
}
