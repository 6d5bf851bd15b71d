//! A day of mixed traffic, counted twice: by the node's ledger, and here, from what its callers and its
//! upstreams saw and the price list. None of hedge's code has a part in the second count.

use std::collections::BTreeMap;

use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use loadtest::FakeUpstream;
use serde_json::{Value, json};

use crate::cache::is_loaded;
use crate::harness::{Hedge, Reply, ask, fake, root, with};
use crate::records::{all_records, savings, under, until_written};

/// Requests of each hour that come one by one.
const BY_HOUR: [usize; 24] = [
    3, 1, 1, 1, 1, 2, 5, 8, 14, 20, 22, 22, 16, 18, 22, 22, 20, 14, 10, 8, 7, 6, 5, 4,
];

/// Every test of the day is of this one.
const SEED: u64 = 24;

/// Callers that ask the same at once.
const ALIKE: usize = 12;

/// What the upstreams charge for a million tokens, in micro-dollars; the configuration says the same in
/// dollars.
struct Rates {
    input: i64,
    cached: i64,
    output: i64,
}

fn rates(model: &str) -> Rates {
    let (input, cached, output) = match model {
        "small" => (150_000, 150_000, 600_000),
        "medium" => (2_500_000, 1_250_000, 10_000_000),
        "large" => (3_000_000, 300_000, 15_000_000),
        other => panic!("{other} has no price"),
    };
    Rates {
        input,
        cached,
        output,
    }
}

/// The model whose price a request is measured by, where it names one.
fn measured_by(asked: &str) -> Option<&str> {
    match asked {
        "auto" | "nobody/none" => None,
        "house" => Some("large"),
        other => other.split_once('/').map(|(_, model)| model),
    }
}

fn config(north: &FakeUpstream, south: &FakeUpstream) -> String {
    let (north, south) = (north.base_url(), south.base_url());
    format!(
        "[local]\nenabled = false
        [offline]\nenabled = false
        [cache]\nsemantic = true\nmax_wrong_rate = 1.0\nshadow_rate = 0.0\nlook_up_ms_max = 10000
        [organisation]\nlimits = [{{ count = 'cost', usd = 1000, per = 'ever' }}]
        [aliases]\nhouse = 'south/large'
        [[keys]]\nname = 'one'\nteam = 'sales'
        secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
        [[keys]]\nname = 'two'\nteam = 'research'
        secret = 'sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3'
        [[keys]]\nname = 'three'\nteam = 'support'
        secret = 'sha256:8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f'
        [[keys]]\nname = 'four'\nteam = 'guests'
        limits = [{{ count = 'requests', amount = 4, per = 'ever' }}]
        secret = 'sha256:04efaf080f5a3e74e1c29d1ca6a48569382cbbcd324e8d59d2b83ef21c039f00'
        [[upstreams]]\nname = 'north'\nbase_url = '{north}'\nkey = 'env:FAKE_KEY'
        models = ['small', 'medium']
        [[upstreams]]\nname = 'south'\nbase_url = '{south}'\nkey = 'env:FAKE_KEY'
        models = ['large']
        [[prices]]\nupstream = 'north'\nmodels = ['small']\ninput = 0.15\noutput = 0.6
        [[prices]]\nupstream = 'north'\nmodels = ['medium']\ninput = 2.5\ncached_input = 1.25
        output = 10.0
        [[prices]]\nupstream = 'south'\nmodels = ['large']\ninput = 3.0\ncached_input = 0.3
        output = 15.0\n"
    )
}

/// What a request is, as far as the count must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Question,
    /// Changes by itself, so nothing like it is looked for.
    Passing,
    Other,
    NoStore,
    NoCache,
    /// By the upstream.
    Refused,
    Unknown,
    /// Of a team that may ask four times.
    Guest,
    Broken,
}

struct Request {
    key: &'static str,
    id: String,
    kind: Kind,
    body: Value,
}

struct Hour {
    one_by_one: Vec<Request>,
    at_once: Vec<Request>,
}

/// SplitMix64: the same day each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }
}

fn day() -> Vec<Hour> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/day.json")).unwrap();
    let said: Value = serde_json::from_str(&text).unwrap();
    let mut dice = Dice(SEED);
    let hours = BY_HOUR.iter().enumerate();
    hours
        .map(|(hour, count)| {
            let mut one_by_one: Vec<_> = (0..*count)
                .map(|at| one(&mut dice, &said, format!("h{hour}-{at}")))
                .collect();
            if (8..18).contains(&hour) {
                one_by_one.push(guest(hour));
            }
            let at_once = alike(hour);
            Hour {
                one_by_one,
                at_once,
            }
        })
        .collect()
}

/// One of the mixed requests.
fn one(dice: &mut Dice, said: &Value, id: String) -> Request {
    const MODELS: [&str; 5] = [
        "north/small",
        "north/medium",
        "south/large",
        "house",
        "auto",
    ];
    let key = ["one", "one", "one", "two", "three"][dice.throw(5)];
    let questions = said["questions"].as_array().unwrap();
    let at = dice.throw(questions.len());
    let question = &questions[at];
    let model = MODELS[at % MODELS.len()];
    // It says so many tokens because it stops there: no word of the question tells.
    let about = |text: &Value| {
        let stop = format!("t{} ", question["tokens"]);
        with(ask(model, text.as_str().unwrap()), json!({"stop": [stop]}))
    };
    let (kind, body) = match dice.throw(20) {
        0..6 => (Kind::Question, about(&question["asked"])),
        6..12 => (Kind::Question, about(&question["again"][dice.throw(2)])),
        12 => {
            let text = said["passing"][dice.throw(3)].as_str().unwrap();
            (Kind::Passing, ask(model, text))
        }
        13 => {
            let text = format!(
                "Write to ana{}@example.org that it is late.",
                dice.throw(90)
            );
            (Kind::Other, ask("north/medium", &text))
        }
        14 => (Kind::NoStore, about(&question["asked"])),
        15 => (Kind::NoCache, about(&question["asked"])),
        16 => (
            Kind::Refused,
            ask(model, &format!("[[fake status=400]] {id}")),
        ),
        17 => (Kind::Unknown, ask("nobody/none", "hello")),
        18 => {
            let text = format!("[[fake tokens=9 cut-after=4]] {id}");
            (Kind::Broken, ask("south/large", &text))
        }
        _ => {
            let text = format!("[[fake tokens=11 cached=40]] item {}", dice.throw(3));
            (Kind::Other, ask("south/large", &text))
        }
    };
    let is_streamed = kind == Kind::Broken || dice.throw(3) == 0;
    let body = if is_streamed { streamed(body) } else { body };
    Request {
        key,
        id,
        kind,
        body,
    }
}

fn streamed(body: Value) -> Value {
    let told = json!({"stream": true, "stream_options": {"include_usage": true}});
    with(body, told)
}

/// Beyond its limit it is refused.
fn guest(hour: usize) -> Request {
    Request {
        key: "four",
        id: format!("h{hour}-guest"),
        kind: Kind::Guest,
        body: ask("north/small", &format!("Hello at {hour} o'clock")),
    }
}

/// Those who ask the same at once, where it is such an hour: of one team or of two, and once of what
/// breaks off. Each hour has instructions of its own, so that nothing kept is near.
fn alike(hour: usize) -> Vec<Request> {
    let (kind, model, keys, marker) = match hour {
        9 => (
            Kind::Other,
            "south/large",
            ["one", "one"],
            "tokens=20 gap-ms=40",
        ),
        11 => (Kind::Other, "auto", ["one", "one"], "tokens=14 gap-ms=40"),
        14 => (
            Kind::Other,
            "north/medium",
            ["two", "three"],
            "tokens=18 gap-ms=40",
        ),
        19 => (
            Kind::Broken,
            "house",
            ["one", "one"],
            "cut-after=12 gap-ms=40",
        ),
        _ => return Vec::new(),
    };
    let asked = format!("[[fake {marker}]] what everybody asks");
    let body = json!({"model": model, "temperature": 0, "messages": [
        {"role": "system", "content": format!("It is {hour} o'clock.")},
        {"role": "user", "content": asked},
    ]});
    let requests = (0..ALIKE).map(|at| Request {
        key: keys[at % 2],
        id: format!("h{hour}-alike-{at}"),
        kind,
        body: streamed(body.clone()),
    });
    requests.collect()
}

/// A request and what its caller saw.
struct Seen {
    request: Request,
    reply: Reply,
}

async fn send(hedge: &Hedge, request: Request) -> Seen {
    let mut sent = under(request.key, &request.id, &request.body);
    let control = match request.kind {
        Kind::NoStore => Some("no-store"),
        Kind::NoCache => Some("no-cache"),
        _ => None,
    };
    if let Some(control) = control {
        let headers = sent.headers_mut();
        headers.insert("cache-control", HeaderValue::from_static(control));
    }
    let reply = hedge.send(sent).await;
    Seen { request, reply }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    input: i64,
    cached: i64,
    output: i64,
}

impl Usage {
    fn add(&mut self, more: Usage) {
        self.input += more.input;
        self.cached += more.cached;
        self.output += more.output;
    }

    fn cost(self, model: &str) -> i64 {
        let rates = rates(model);
        let sum = (self.input - self.cached) * rates.input
            + self.cached * rates.cached
            + self.output * rates.output;
        // Rounded up to a whole micro-dollar.
        (sum + 999_999) / 1_000_000
    }
}

impl Seen {
    fn team(&self) -> &'static str {
        match self.request.key {
            "one" => "sales",
            "two" => "research",
            "three" => "support",
            _ => "guests",
        }
    }

    fn asked(&self) -> &str {
        self.request.body["model"].as_str().unwrap()
    }

    fn is_refused(&self) -> bool {
        self.reply.status != StatusCode::OK
    }

    fn is_streamed(&self) -> bool {
        self.request.body["stream"] == true
    }

    fn is_broken(&self) -> bool {
        !self.is_refused() && self.is_streamed() && !self.reply.is_done()
    }

    /// The first word of `x-hedge-cache`.
    fn cache(&self) -> &str {
        let header = self.reply.header("x-hedge-cache");
        header.split_once(';').map_or(header, |(word, _)| word)
    }

    fn is_reuse(&self) -> bool {
        ["exact", "semantic", "shared"].contains(&self.cache())
    }

    /// Whose words it was given.
    fn model(&self) -> String {
        let model = match self.is_streamed() {
            true => self.reply.chunks()[0]["model"].clone(),
            false => self.reply.json()["model"].clone(),
        };
        model.as_str().unwrap().to_owned()
    }

    /// What it was told of tokens.
    fn usage(&self) -> Usage {
        let told = match self.is_streamed() {
            true => {
                let chunks = self.reply.chunks();
                let mut told = chunks.into_iter().map(|it| it["usage"].clone());
                told.rfind(Value::is_object).unwrap()
            }
            false => self.reply.json()["usage"].clone(),
        };
        let count = |at: &str| told.pointer(at).and_then(Value::as_i64);
        Usage {
            input: count("/prompt_tokens").unwrap(),
            cached: count("/prompt_tokens_details/cached_tokens").unwrap_or(0),
            output: count("/completion_tokens").unwrap(),
        }
    }
}

/// What a request comes to.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    cache: Option<&'static str>,
    usage: Option<Usage>,
    spent: Option<i64>,
    /// What it would have cost without the cache, and how that is known.
    elsewhere: Option<i64>,
    basis: Option<&'static str>,
    made: Option<i64>,
}

/// `usage` as the caller was told; of what broke off, where nobody was told, as the record has it.
fn due(seen: &Seen, usage: Option<Usage>) -> Due {
    let Some(usage) = usage else {
        return Due {
            cache: None,
            usage: None,
            spent: None,
            elsewhere: None,
            basis: None,
            made: None,
        };
    };
    let paid = usage.cost(&seen.model());
    let spent = if seen.is_reuse() { 0 } else { paid };
    let asked = measured_by(seen.asked());
    let (elsewhere, basis) = match asked {
        Some(model) => (usage.cost(model), "asked"),
        None if seen.is_reuse() => (paid, "made"),
        None => (paid, "answered"),
    };
    Due {
        cache: Some(match seen.cache() {
            // Nothing is said of it.
            "" => "bypassed",
            "miss" => "missed",
            "exact" => "hit_exact",
            "semantic" => "hit_semantic",
            "shared" => "shared",
            other => panic!("{other}: {:?}", seen.reply),
        }),
        usage: Some(usage),
        spent: Some(spent),
        elsewhere: Some(elsewhere),
        basis: Some(basis),
        made: seen.is_reuse().then_some(paid),
    }
}

/// A record's side of the same.
fn recorded(record: &Value) -> Due {
    let count = |name: &str| record[name].as_i64();
    let known = |name: &str, words: &[&'static str]| {
        let word = record[name].as_str()?;
        words.iter().find(|known| **known == word).copied()
    };
    let is_refused = record["outcome"] == "refused";
    let all = ["bypassed", "missed", "hit_exact", "hit_semantic", "shared"];
    Due {
        // What the cache had to do with a refusal no caller is told.
        cache: known("cache", &all).filter(|_| !is_refused),
        usage: count("input_tokens").map(|input| Usage {
            input,
            cached: count("cached_tokens").unwrap_or(0),
            output: count("output_tokens").unwrap(),
        }),
        spent: count("cost_microusd"),
        elsewhere: count("counterfactual_microusd"),
        basis: known("basis", &["asked", "answered", "made", "reference"]),
        made: count("made_microusd"),
    }
}

/// A sum as `hedge savings` prints it.
#[derive(Clone, Copy, Default)]
struct Sum {
    requests: i64,
    usage: Usage,
    compared: i64,
    spent: i64,
    elsewhere: i64,
}

impl Sum {
    fn add(&mut self, due: &Due) {
        self.requests += 1;
        self.usage.add(due.usage.unwrap_or_default());
        if let (Some(spent), Some(elsewhere)) = (due.spent, due.elsewhere) {
            self.compared += 1;
            self.spent += spent;
            self.elsewhere += elsewhere;
        }
    }

    fn told(&self) -> Value {
        json!({
            "requests": self.requests,
            "input_tokens": self.usage.input,
            "output_tokens": self.usage.output,
            "compared_requests": self.compared,
            "compared_spent_microusd": self.spent,
            "counterfactual_microusd": self.elsewhere,
            "saved_microusd": self.elsewhere - self.spent,
        })
    }
}

/// Of a team's requests, or of all, against what the command and the operator's listener tell.
async fn compare_sums(hedge: &Hedge, team: Option<&str>, day: &[(Seen, Due)]) {
    let of_team = day
        .iter()
        .filter(|(seen, _)| team.is_none_or(|team| seen.team() == team));
    let mut sums: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    for (seen, due) in of_team {
        let by = match due.cache {
            _ if seen.is_reuse() => "cache",
            Some(_) => "upstream",
            None => "none",
        };
        for part in [
            ("total", ""),
            ("saved_by", by),
            ("basis", due.basis.unwrap_or("none")),
        ] {
            sums.entry(part).or_default().add(due);
        }
    }
    let total = sums[&("total", "")];
    let more: Vec<&str> = team.iter().flat_map(|team| ["--team", *team]).collect();
    let (printed, _) = savings(hedge, &more);
    let query = team.map(|team| format!("&team={team}")).unwrap_or_default();
    let path = format!("/admin/v1/savings?since=1h{query}");
    let listened = hedge.admin_get(&path).await.json();
    for told in [printed, listened] {
        assert_eq!(told["total"], total.told(), "{team:?}");
        assert_eq!(told["spent_microusd"], total.spent, "{team:?}");
        assert_eq!(told["unpriced_requests"], 0, "{team:?}");
        for by in ["saved_by", "basis"] {
            for part in told[by].as_array().unwrap() {
                let label = part[0].as_str().unwrap();
                let sum = sums.get(&(by, label)).copied().unwrap_or_default();
                assert_eq!(part[1], sum.told(), "{team:?} {by} {label}");
            }
        }
    }
}

/// What an upstream has to charge, by model: of each call that it was sent and went through, words in and
/// tokens out, as the fake counts them.
fn billed(upstreams: &[&FakeUpstream]) -> BTreeMap<String, (u64, Usage)> {
    let mut bill: BTreeMap<String, (u64, Usage)> = BTreeMap::new();
    for upstream in upstreams {
        let calls = upstream.seen();
        assert_eq!(
            calls.len() as u64,
            upstream.counts().asked,
            "none was forgotten"
        );
        for call in calls {
            let texts: Vec<&str> = call.body["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|message| message["content"].as_str().unwrap())
                .collect();
            let last = *texts.last().unwrap();
            if last.contains("status=") || last.contains("cut-after=") {
                continue;
            }
            let marked = |name: &str| {
                let (_, rest) = last.split_once(name)?;
                let end = rest.find([' ', ']'])?;
                rest[..end].parse::<i64>().ok()
            };
            let stop = call.body["stop"][0].as_str();
            let stop = stop.map(|stop| stop[1..].trim_end().parse().unwrap());
            let cached = marked("cached=").unwrap_or(0);
            let words: usize = texts.iter().map(|it| it.split_whitespace().count()).sum();
            let model = call.body["model"].as_str().unwrap();
            let (calls, usage) = bill.entry(model.to_owned()).or_default();
            *calls += 1;
            usage.add(Usage {
                input: words as i64 + cached,
                cached,
                output: stop.or(marked("tokens=")).unwrap_or(16),
            });
        }
    }
    bill
}

/// The sum over all lines of a metric that have these words in them.
fn metric(metrics: &str, name: &str, words: &str) -> i64 {
    let of_name = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(words))
    });
    of_name
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap())
        .sum()
}

#[tokio::test]
async fn a_days_savings_are_what_its_callers_and_upstreams_saw() {
    let (north, south) = (fake(), fake());
    let hedge = Hedge::start(&config(&north, &south)).await;
    is_loaded(&hedge).await;
    let mut seen = Vec::new();
    for hour in day() {
        for request in hour.one_by_one {
            seen.push(send(&hedge, request).await);
        }
        let at_once = hour.at_once.into_iter().map(|it| send(&hedge, it));
        seen.extend(join_all(at_once).await);
    }
    until_written(&hedge, seen.len()).await;
    let records: BTreeMap<String, Value> = all_records(&hedge)
        .await
        .into_iter()
        .map(|record| (record["request_id"].as_str().unwrap().to_owned(), record))
        .collect();
    assert_eq!(records.len(), seen.len());

    // Each record by itself.
    let mut cut: BTreeMap<String, Usage> = BTreeMap::new();
    let mut counted = Vec::new();
    for seen in seen {
        let record = &records[&seen.request.id];
        let ours = recorded(record);
        let usage = match (seen.is_refused(), seen.is_broken()) {
            (true, _) => None,
            (false, false) => Some(seen.usage()),
            // Nobody was told, so the node counts for itself: all who were given the same alike.
            (false, true) => {
                let usage = ours.usage.unwrap();
                let pieces = seen.reply.chunks();
                let pieces = pieces.iter().filter(|it| {
                    let text = it["choices"][0]["delta"]["content"].as_str();
                    text.is_some_and(|text| !text.is_empty())
                });
                assert_eq!(record["is_counted"], true, "{record}");
                assert!(usage.output >= pieces.count() as i64, "{record}");
                let text = seen.request.body["messages"].to_string();
                assert_eq!(*cut.entry(text).or_insert(usage), usage, "{record}");
                Some(usage)
            }
        };
        let due = due(&seen, usage);
        assert_eq!(ours, due, "{record}\n{:?}", seen.reply);
        counted.push((seen, due));
    }
    let how_many = |holds: &dyn Fn(&Seen) -> bool| {
        let held = counted.iter().filter(|(seen, _)| holds(seen));
        held.count() as i64
    };
    let of_cache = |word: &str| how_many(&|seen| seen.cache() == word);
    let by_status = |status: u16| how_many(&|seen| seen.reply.status.as_u16() == status);
    // All that a day may bring was there.
    for (what, count, least) in [
        ("exact", of_cache("exact"), 30),
        ("semantic", of_cache("semantic"), 20),
        ("shared", of_cache("shared"), 2 * ALIKE as i64),
        ("missed", of_cache("miss"), 40),
        (
            "bypassed",
            how_many(&|it| it.cache().is_empty() && !it.is_refused()),
            5,
        ),
        ("broken off", how_many(&Seen::is_broken), ALIKE as i64 + 3),
        (
            "broken off for others too",
            how_many(&|it| it.is_broken() && it.is_reuse()),
            1,
        ),
        (
            "refused by an upstream",
            how_many(&|it| it.request.kind == Kind::Refused),
            3,
        ),
        ("unknown", by_status(404), 3),
        ("beyond a limit", by_status(403), 6),
        (
            "streamed from the cache",
            how_many(&|it| it.is_streamed() && it.is_reuse()),
            20,
        ),
    ] {
        assert!(count >= least, "{what}: {count}");
    }

    // What was paid for is what was called for.
    let mut paid: BTreeMap<String, (u64, Usage)> = BTreeMap::new();
    for (seen, due) in &counted {
        if let (Some(usage), false, false) = (due.usage, seen.is_broken(), seen.is_reuse()) {
            let (calls, sum) = paid.entry(seen.model()).or_default();
            *calls += 1;
            sum.add(usage);
        }
    }
    assert_eq!(paid, billed(&[&north, &south]));

    for team in [
        None,
        Some("sales"),
        Some("research"),
        Some("support"),
        Some("guests"),
    ] {
        compare_sums(&hedge, team, &counted).await;
    }

    // The cache's own counts, of look-ups: a request that wants it fresh looks for nothing, and one that is
    // refused late has looked.
    let stats = hedge.admin_get("/admin/v1/cache").await.json();
    let told = |name: &str| stats[name].as_i64().unwrap();
    let looked = how_many(&|seen| {
        let kind = seen.request.kind;
        let is_late = seen.is_refused() && [Kind::Refused, Kind::Guest].contains(&kind);
        (seen.cache() == "miss" || is_late) && kind != Kind::NoCache
    });
    let results = ["served", "missed", "shadowed", "unasked", "failed"].map(told);
    assert_eq!(told("served"), of_cache("semantic"), "{stats}");
    assert_eq!(
        results.iter().sum::<i64>(),
        looked + of_cache("semantic"),
        "{stats}"
    );
    assert_eq!(told("failed"), 0, "{stats}");
    let passing = |seen: &Seen| seen.request.kind == Kind::Passing && seen.cache() == "miss";
    assert!(told("unasked") >= how_many(&passing), "{stats}");

    // And the metrics.
    let metrics = hedge.metrics().await;
    let reused = counted.iter().filter(|(seen, _)| seen.is_reuse());
    let mut spared = Usage::default();
    let mut made: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for (_, due) in reused {
        spared.add(due.usage.unwrap());
        let (count, sum) = made.entry(due.cache.unwrap()).or_default();
        *count += 1;
        *sum += due.made.unwrap();
    }
    let tokens = metric(&metrics, "hedge_tokens_spared_total", "route=\"cache\"");
    assert_eq!(tokens, spared.input + spared.output);
    for (cache, (count, sum)) in made {
        let label = format!("cache=\"{cache}\"");
        assert_eq!(
            metric(&metrics, "hedge_exchanges_total", &label),
            count,
            "{cache}"
        );
        assert_eq!(
            metric(&metrics, "hedge_cost_saved_microusd_total", &label),
            sum,
            "{cache}"
        );
    }
    for (result, count) in ["served", "missed", "shadowed", "unasked", "failed"]
        .iter()
        .zip(results)
    {
        let label = format!("result=\"{result}\"");
        assert_eq!(
            metric(&metrics, "hedge_cache_look_ups_total", &label),
            count,
            "{result}"
        );
    }
    for name in ["entries", "compartments", "bytes"] {
        assert_eq!(
            metric(&metrics, &format!("hedge_cache_{name}"), ""),
            told(name),
            "{name}"
        );
        assert!(told(name) > 0, "{name}");
    }
}
