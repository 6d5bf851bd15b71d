//! What one team's load does to another's short question: its time to first text alone, and beside
//! many long answers that the other team keeps asking for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::prompts::{Prompts, body};
use super::telling::tell;
use crate::drive::{Lane, Target, machine, median};

/// After a refusal, before the other team asks again.
const REFUSED_WAIT: Duration = Duration::from_millis(500);
/// For the engine to notice that the other team has gone, before a question counts as alone.
const QUIET_WAIT: Duration = Duration::from_secs(1);
/// For the first word of the crowd's answers.
const CROWD_WAIT_MAX: Duration = Duration::from_secs(120);
/// Between two questions beside the load: not a multiple of anything the engine does.
const QUESTION_GAP: Duration = Duration::from_millis(373);

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Fairness {
    pub target: Target,
    /// The API key of the team with the load.
    pub crowd_key: Option<String>,
    /// The API key of the team with the short question.
    pub guest_key: Option<String>,
    /// Long requests of the crowd that are open at once.
    pub clients: u32,
    pub crowd_prompt_tokens: u32,
    pub crowd_answer_tokens: u32,
    pub guest_prompt_tokens: u32,
    pub guest_answer_tokens: u32,
    /// Questions in a round alone, and as many beside the crowd.
    pub questions: u32,
    pub rounds: u32,
}

/// One round. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    pub alone_p50_ms: f64,
    pub beside_p50_ms: f64,
    pub beside_max_ms: f64,
    /// Of the medians.
    pub ratio: f64,
    pub guest_failed: u64,
    pub crowd_answered: u64,
    pub crowd_failed: u64,
    pub crowd_answer_tokens: u64,
}

/// All rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub machine: String,
    pub turns: Vec<Turn>,
    /// The median over the rounds.
    pub ratio: f64,
}

impl Verdict {
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| round | alone p50 ms | beside p50 ms | beside max ms | ratio | failed | crowd answered | crowd failed | crowd tokens |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for (round, turn) in self.turns.iter().enumerate() {
            table.push_str(&format!(
                "| {} | {:.0} | {:.0} | {:.0} | {:.2} | {} | {} | {} | {} |\n",
                round + 1,
                turn.alone_p50_ms,
                turn.beside_p50_ms,
                turn.beside_max_ms,
                turn.ratio,
                turn.guest_failed,
                turn.crowd_answered,
                turn.crowd_failed,
                turn.crowd_answer_tokens,
            ));
        }
        table
    }

    #[must_use]
    pub fn failed(&self) -> u64 {
        self.turns.iter().map(|turn| turn.guest_failed).sum()
    }
}

/// Runs all rounds.
///
/// # Errors
/// The target cannot be reached, does not say how many tokens it read, or answered no question.
pub async fn fairness(course: &Fairness, mut progress: impl FnMut(&str)) -> io::Result<Verdict> {
    let prompts = Prompts::measured(&course.target, course.guest_key.as_deref()).await?;
    let mut turns = Vec::new();
    for round in 0..course.rounds {
        progress(&format!("round {}/{}", round + 1, course.rounds));
        turns.push(turn(course, &prompts, u64::from(round)).await?);
    }
    let ratio = median(turns.iter().map(|turn| turn.ratio)).unwrap_or_default();
    Ok(Verdict {
        machine: machine(),
        turns,
        ratio,
    })
}

async fn turn(course: &Fairness, prompts: &Prompts, round: u64) -> io::Result<Turn> {
    let mut drives = JoinSet::new();
    let mut guest = lane(&course.target, course.guest_key.as_deref(), &mut drives).await?;
    tokio::time::sleep(QUIET_WAIT).await;
    let seed = round << 32;
    let alone = ask(course, prompts, &mut guest, seed).await;
    let crowd = Crowd::gather(course, prompts, seed).await?;
    let beside = ask(course, prompts, &mut guest, seed + (1 << 16)).await;
    let tally = crowd.dismiss();
    let guest_failed = alone.failed + beside.failed;
    let (alone, beside) = (alone.firsts_ms, beside.firsts_ms);
    let middle = |firsts: &[f64]| median(firsts.iter().copied());
    let (Some(alone_p50_ms), Some(beside_p50_ms)) = (middle(&alone), middle(&beside)) else {
        return Err(io::Error::other("not one question was answered"));
    };
    Ok(Turn {
        alone_p50_ms,
        beside_p50_ms,
        beside_max_ms: beside.into_iter().fold(0.0, f64::max),
        ratio: beside_p50_ms / alone_p50_ms,
        guest_failed,
        crowd_answered: tally.answered.load(Ordering::Relaxed),
        crowd_failed: tally.failed.load(Ordering::Relaxed),
        crowd_answer_tokens: tally.answer_tokens.load(Ordering::Relaxed),
    })
}

/// What became of some questions.
#[derive(Debug, Default)]
struct Answers {
    firsts_ms: Vec<f64>,
    failed: u64,
}

async fn ask(course: &Fairness, prompts: &Prompts, lane: &mut Lane, seed: u64) -> Answers {
    let mut answers = Answers::default();
    for nth in 0..course.questions {
        tokio::time::sleep(QUESTION_GAP).await;
        let text = prompts.text(0, course.guest_prompt_tokens, seed + u64::from(nth));
        let body = body(&course.target, &text, course.guest_answer_tokens);
        match tell(lane, body, &Semaphore::new(0)).await {
            Ok(telling) => answers.firsts_ms.push(telling.first.as_secs_f64() * 1e3),
            Err(_) => answers.failed += 1,
        }
    }
    answers
}

/// The other team, as long as it is not dismissed.
struct Crowd {
    clients: JoinSet<()>,
    tally: Arc<CrowdTally>,
}

#[derive(Debug, Default)]
struct CrowdTally {
    answered: AtomicU64,
    failed: AtomicU64,
    answer_tokens: AtomicU64,
}

impl Crowd {
    /// Returns once all have asked and the first of them is being answered.
    async fn gather(course: &Fairness, prompts: &Prompts, seed: u64) -> io::Result<Self> {
        let mut clients = JoinSet::new();
        let talking = Arc::new(Semaphore::new(0));
        let tally = Arc::new(CrowdTally::default());
        for client in 0..course.clients {
            let (talking, tally) = (Arc::clone(&talking), Arc::clone(&tally));
            let (course, prompts) = (course.clone(), *prompts);
            clients.spawn(async move {
                for nth in 0_u64.. {
                    let own = seed ^ (u64::from(client) << 48) ^ (nth << 20) ^ 0x00C0_FFEE;
                    let text = prompts.text(0, course.crowd_prompt_tokens, own);
                    match one_of_many(&course, &text, &talking).await {
                        Ok(tokens) => {
                            tally.answered.fetch_add(1, Ordering::Relaxed);
                            tally.answer_tokens.fetch_add(tokens, Ordering::Relaxed);
                        }
                        Err(_) => {
                            tally.failed.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(REFUSED_WAIT).await;
                        }
                    }
                }
            });
        }
        let first = tokio::time::timeout(CROWD_WAIT_MAX, talking.acquire()).await;
        drop(first.map_err(|_| io::Error::other("nobody of the crowd was answered"))?);
        Ok(Self { clients, tally })
    }

    /// Sends all away, in the middle of a word.
    fn dismiss(mut self) -> Arc<CrowdTally> {
        self.clients.abort_all();
        self.tally
    }
}

/// One long request, on a connection of its own. Gives the tokens of its answer.
async fn one_of_many(course: &Fairness, text: &str, talking: &Semaphore) -> io::Result<u64> {
    let mut drives = JoinSet::new();
    let mut lane = lane(&course.target, course.crowd_key.as_deref(), &mut drives).await?;
    let body = body(&course.target, text, course.crowd_answer_tokens);
    Ok(tell(&mut lane, body, talking).await?.answer_tokens)
}

async fn lane(target: &Target, key: Option<&str>, drives: &mut JoinSet<()>) -> io::Result<Lane> {
    let (lane, drive) = Lane::connect(target.addr, Bytes::new()).await?;
    drives.spawn(drive);
    lane.with_key(key)
}
