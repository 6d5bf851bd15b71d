//! What an exchange costs: counted by its provider, or by us where the provider does not say.

use std::fmt;
use std::sync::{Arc, OnceLock};

use domain::{ChatEvent, ChatRequest, MicroUsd, Part, Price, Tokens, Usage};

/// Of prompt and reply each, what is kept to count tokens by. The rest counts in proportion.
const SAMPLE_BYTES_MAX: usize = 4 * 1024;

/// What an image comes to at most with the providers that are known: 2,048 x 2,048 pixels in tiles.
const IMAGE_TOKENS: u64 = 3_000;

/// Bytes of a file or a recording, as base64 text, that count as one token.
const MEDIA_TOKEN_BYTES: u64 = 8;

/// What images, sound and files come to at most. It is held, and paid by who leaves before a provider has
/// counted them.
pub(crate) fn media_tokens(request: &ChatRequest) -> u64 {
    let parts = request.messages.iter().flat_map(|it| &it.content);
    let tokens = parts.map(|part| match part {
        Part::Image(_) => IMAGE_TOKENS,
        Part::Audio(audio) => (audio.data.len() as u64).div_ceil(MEDIA_TOKEN_BYTES),
        Part::File(file) => (file.url.len() as u64).div_ceil(MEDIA_TOKEN_BYTES),
        // Their texts are counted as such.
        Part::Other(_) | Part::Text(_) | Part::Thought(_) | Part::Seal(_) => 0,
    });
    tokens.sum()
}

/// An exchange's cost, known once its reply has ended.
#[derive(Clone, Default)]
pub struct Cost(Arc<OnceLock<MicroUsd>>);

impl Cost {
    /// That of a reply whose cost is known, or will never be.
    pub(crate) fn of(cost: Option<MicroUsd>) -> Self {
        let known = Self::default();
        cost.iter().for_each(|cost| known.settle(*cost));
        known
    }

    /// `None` before the end, and where no price is known.
    #[must_use]
    pub fn known(&self) -> Option<MicroUsd> {
        self.0.get().copied()
    }

    pub(crate) fn settle(&self, cost: MicroUsd) {
        // Settled once: the receipt that does it is dropped once.
        let _ = self.0.set(cost);
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cost({:?})", self.known())
    }
}

/// Watches one exchange.
pub(crate) struct Meter {
    prompt: Sample,
    /// Of images, sound and files, as they were held.
    media_tokens: u64,
    reply: Sample,
    price: Option<Price>,
    /// Of the parts that ended, where several backends had one. `None` once a price was not known.
    spent: Option<MicroUsd>,
    pub cost: Cost,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            prompt: Sample::default(),
            media_tokens: 0,
            reply: Sample::default(),
            price: None,
            spent: Some(MicroUsd(0)),
            cost: Cost::default(),
        }
    }
}

impl Meter {
    /// The request as it will be sent, or nearly so: values that are masked count as themselves.
    pub fn read(&mut self, request: &ChatRequest) {
        request.texts(&mut |text| self.prompt.take(text));
        self.media_tokens = media_tokens(request);
    }

    /// Whether it knows the request.
    pub fn has_read(&self) -> bool {
        self.prompt.bytes > 0 || self.media_tokens > 0
    }

    /// Whether anything was said.
    pub fn has_heard(&self) -> bool {
        self.reply.bytes > 0
    }

    pub fn hear(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Text { text, .. } | ChatEvent::Thought { text, .. } => self.reply.take(text),
            ChatEvent::ToolCall { part, .. } => {
                part.name.iter().for_each(|name| self.reply.take(name));
                self.reply.take(&part.arguments);
            }
            ChatEvent::Started(_)
            | ChatEvent::Written(_)
            | ChatEvent::Seal { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::ChoiceEnded { .. }
            | ChatEvent::Usage(_) => {}
        }
    }

    /// From now on an upstream works for this exchange.
    pub fn charge_by(&mut self, price: Option<Price>) {
        self.price = price;
    }

    /// What prompt and reply come to by our own count.
    pub fn count(&self) -> Usage {
        let prompt = u64::from(self.prompt.tokens().0) + self.media_tokens;
        Usage {
            prompt_tokens: Tokens(u32::try_from(prompt).unwrap_or(u32::MAX)),
            completion_tokens: self.reply.tokens(),
            ..Usage::default()
        }
    }

    /// Ends one backend's part; the next reads what was said so far with the prompt. Gives our own count
    /// of it, by which it is charged where it reported none.
    pub fn close_share(&mut self, reported: Option<Usage>) -> Usage {
        let counted = self.count();
        let cost = self
            .price
            .map(|price| price.cost(&reported.unwrap_or(counted)));
        let sum = |spent: MicroUsd, cost: MicroUsd| MicroUsd(spent.0.saturating_add(cost.0));
        self.spent = self.spent.zip(cost).map(|(spent, cost)| sum(spent, cost));
        let said = std::mem::take(&mut self.reply);
        self.prompt.append(&said);
        counted
    }

    /// Of all parts that ended; `None` where no price is known of one.
    pub fn settle_all(&self) -> Option<MicroUsd> {
        self.spent.inspect(|cost| self.cost.settle(*cost))
    }

    /// `None` where no price is known.
    pub fn settle(&self, usage: &Usage) -> Option<MicroUsd> {
        let cost = self.price?.cost(usage);
        self.cost.settle(cost);
        Some(cost)
    }
}

/// The beginning of a text, and how long all of it is.
#[derive(Default)]
struct Sample {
    text: String,
    bytes: usize,
}

impl Sample {
    fn take(&mut self, text: &str) {
        self.bytes += text.len();
        let room = SAMPLE_BYTES_MAX - self.text.len();
        if room > 0 {
            self.text.push_str(&text[..text.floor_char_boundary(room)]);
        }
    }

    fn append(&mut self, more: &Sample) {
        let bytes = self.bytes + more.bytes;
        self.take(&more.text);
        self.bytes = bytes;
    }

    fn tokens(&self) -> Tokens {
        if self.text.is_empty() {
            return Tokens(0);
        }
        let counted = policy::count_tokens(&self.text) as u64;
        let all = (counted * self.bytes as u64).div_ceil(self.text.len() as u64);
        Tokens(u32::try_from(all).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use domain::{Message, Rates, Role};

    use super::*;

    #[test]
    fn long_text_is_counted_by_its_beginning() {
        let mut short = Sample::default();
        short.take("the cat sat on the mat. ");
        let mut long = Sample::default();
        for _ in 0..10_000 {
            long.take("the cat sat on the mat. ");
        }
        assert!(long.text.len() <= SAMPLE_BYTES_MAX);
        let (short, long) = (short.tokens().0, long.tokens().0);
        assert!(
            (short - 1) * 10_000 <= long && long <= short * 10_000,
            "{short} {long}"
        );
        assert_eq!(Sample::default().tokens(), Tokens(0));
        // A character that does not fit ends the sample, not the count.
        let mut odd = Sample::default();
        odd.take(&"a".repeat(SAMPLE_BYTES_MAX - 1));
        odd.take("é");
        odd.take("b");
        assert_eq!(odd.bytes, SAMPLE_BYTES_MAX + 2);
    }

    #[test]
    fn what_was_asked_and_said_is_charged() {
        let mut meter = Meter::default();
        meter.read(&ChatRequest::new(
            "m",
            vec![Message::new(Role::User, "Hello, world!")],
        ));
        let text = "Hello, world!".to_owned();
        meter.hear(&ChatEvent::Text { choice: 0, text });
        let usage = meter.count();
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens),
            (Tokens(4), Tokens(4))
        );
        assert_eq!(meter.settle(&usage), None);
        let rates = Rates {
            input: 1_000_000,
            output: 10_000_000,
            ..Rates::default()
        };
        meter.charge_by(Some(Price { rates, long: None }));
        assert_eq!(meter.settle(&usage), Some(MicroUsd(44)));
        assert_eq!(meter.cost.known(), Some(MicroUsd(44)));
    }
}
