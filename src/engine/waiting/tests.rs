use std::sync::Arc;

use domain::Sampling;
use proptest::prelude::*;

use super::*;
use crate::adapters::AdapterSet;
use crate::reply::{ReplyStream, reply};
use crate::sampler::Sampler;
use crate::voice::VoiceRules;

fn request(team: &str, prompt: usize, output_max: u32) -> (Request, ReplyStream) {
    let (sender, stream) = reply(1, Arc::default(), Arc::default());
    let request = Request {
        team: Some(team.into()),
        priority: Priority::Interactive,
        model: "m".into(),
        adapters: AdapterSet::NONE,
        prompt: vec![1; prompt],
        images: Vec::new(),
        prediction: Vec::new(),
        output_max,
        sampler: Sampler::new(&Sampling::default(), 0.0, 0),
        grammar: None,
        rules: VoiceRules::default(),
        reply: sender,
    };
    (request, stream)
}

/// Those who wait, and their readers.
#[derive(Default)]
struct Hall {
    waiting: Waiting,
    streams: Vec<ReplyStream>,
}

impl Hall {
    fn ask(&mut self, team: &str, prompt: usize, output_max: u32) -> bool {
        self.ask_as(Priority::Interactive, team, prompt, output_max)
    }

    fn ask_as(&mut self, priority: Priority, team: &str, prompt: usize, output_max: u32) -> bool {
        let (mut request, stream) = request(team, prompt, output_max);
        request.priority = priority;
        self.streams.push(stream);
        self.waiting.push(request)
    }

    fn take(&mut self, place: Place) -> Option<Seat> {
        let (_, seat) = self.waiting.take_if(place, |_| true)?;
        Some(seat)
    }

    /// Takes the next, has it compute `computed` tokens, and says whose it was.
    fn serve(&mut self, computed: u32) -> Option<String> {
        let mut seat = self.take(Place::Regular)?;
        seat.count(computed, true);
        let team = seat.team().map(|team| team.as_str().to_owned());
        self.waiting.settle(seat);
        team
    }
}

#[test]
fn teams_get_equally_many_tokens_and_not_equally_many_requests() {
    let mut hall = Hall::default();
    for _ in 0..100 {
        hall.ask("long", 900, 100);
    }
    for _ in 0..1_000 {
        hall.ask("short", 60, 40);
    }
    let (mut long, mut short) = (0, 0);
    for _ in 0..220 {
        match hall.serve(0).as_deref() {
            Some("long") => long += 1,
            _ => short += 1,
        }
    }
    // Nothing computed, nothing charged: in turn by arrival.
    assert_eq!((long, short), (100, 120));

    let mut hall = Hall::default();
    for _ in 0..100 {
        hall.ask("long", 900, 100);
        hall.ask("short", 60, 40);
        hall.ask("short", 60, 40);
    }
    let (mut long, mut short) = (0_u32, 0_u32);
    for _ in 0..88 {
        let mut seat = hall.take(Place::Regular).unwrap();
        let is_long = seat.team().unwrap().as_str() == "long";
        let tokens = if is_long { 1_000 } else { 100 };
        seat.count(tokens, true);
        *(if is_long { &mut long } else { &mut short }) += tokens;
        hall.waiting.settle(seat);
    }
    assert_eq!((long, short), (8_000, 8_000));
}

#[test]
fn what_was_expected_is_set_right_when_it_ends() {
    let mut hall = Hall::default();
    // Both look alike; one team's replies end after a token.
    for _ in 0..40 {
        hall.ask("brief", 100, 100);
        hall.ask("wordy", 100, 100);
    }
    let mut brief = 0;
    for _ in 0..30 {
        let mut seat = hall.take(Place::Regular).unwrap();
        let is_brief = seat.team().unwrap().as_str() == "brief";
        seat.count(if is_brief { 101 } else { 200 }, true);
        brief += u32::from(is_brief);
        hall.waiting.settle(seat);
    }
    assert!((19..=21).contains(&brief), "{brief}");
}

#[test]
fn a_pause_saves_nothing_up() {
    let mut hall = Hall::default();
    for _ in 0..50 {
        hall.ask("busy", 100, 10);
    }
    hall.ask("now and then", 100, 10);
    hall.serve(110);
    hall.serve(110);
    for _ in 0..30 {
        assert_eq!(hall.serve(110).as_deref(), Some("busy"));
    }
    for _ in 0..10 {
        hall.ask("now and then", 100, 10);
    }
    let served: Vec<_> = (0..10).filter_map(|_| hall.serve(110)).collect();
    let back = served.iter().filter(|team| *team == "now and then").count();
    assert!((5..=6).contains(&back), "{served:?}");
}

#[test]
fn a_batch_request_goes_after_the_interactive_ones_and_is_not_left_out() {
    let mut hall = Hall::default();
    hall.ask_as(Priority::Batch, "patient", 10, 10);
    hall.ask_as(Priority::Batch, "patient", 10, 10);
    for _ in 0..30 {
        hall.ask("hasty", 10, 10);
    }
    let served: Vec<_> = (0..20).filter_map(|_| hall.serve(20)).collect();
    let turns = served
        .iter()
        .enumerate()
        .filter(|(_, team)| *team == "patient");
    let turns: Vec<usize> = turns.map(|(turn, _)| turn).collect();
    let most = AHEAD_OF_BATCH_MAX as usize;
    assert_eq!(turns, [most, 2 * most + 1]);
}

#[test]
fn a_spare_place_is_for_the_first_of_a_team() {
    let mut hall = Hall::default();
    hall.ask("one", 10, 10);
    hall.ask("one", 10, 10);
    let first = hall.take(Place::Regular).unwrap();
    assert!(first.is_first());
    assert!(hall.take(Place::Spare).is_none(), "it is being answered");
    hall.ask_as(Priority::Batch, "two", 10, 10);
    assert!(
        hall.take(Place::Spare).is_none(),
        "a batch request can wait"
    );
    hall.ask("two", 10, 10);
    let other = hall.take(Place::Spare).unwrap();
    assert!(other.is_first() && other.team().unwrap().as_str() == "two");
    hall.waiting.settle(first);
    assert!(hall.take(Place::Spare).unwrap().is_first());
}

#[test]
fn only_so_many_pass_one_that_has_no_room_yet() {
    let mut hall = Hall::default();
    hall.ask("big", 1_000, 10);
    let mut passed = 0;
    for nth in 0..100 {
        assert!(hall.waiting.take_if(Place::Regular, |_| false).is_none());
        // Later than the big one, however little they had.
        hall.ask(&format!("small {nth}"), 10, 10);
        let taken = hall
            .waiting
            .take_if(Place::Spare, |request| request.prompt.len() == 10);
        if let Some((_, seat)) = taken {
            hall.waiting.settle(seat);
            passed += 1;
        }
    }
    assert!(passed <= OVERTAKERS_MAX, "{passed}");
    assert_eq!(hall.serve(10).as_deref(), Some("big"));
}

#[test]
fn a_full_queue_has_a_reserve_for_those_with_little_in_it() {
    let mut hall = Hall::default();
    let has_room = |hall: &Hall, team: &str| hall.waiting.has_room(Some(&team.into()), 1, 16);
    for _ in 0..16 {
        assert!(has_room(&hall, "many"));
        hall.ask("many", 10, 10);
    }
    assert!(!has_room(&hall, "many"));
    // Four more places; two teams wait, so two are each one's share of them.
    for _ in 0..2 {
        assert!(has_room(&hall, "few"));
        hall.ask("few", 10, 10);
    }
    assert!(!has_room(&hall, "few"));
    for team in ["a", "b"] {
        assert!(has_room(&hall, team));
        hall.ask(team, 10, 10);
    }
    assert!(!has_room(&hall, "c"), "the reserve is used up");
    let alone = Hall::default();
    assert!(alone.waiting.has_room(None, 1, 1));
}

#[test]
fn a_team_that_comes_to_another_is_noticed_once() {
    let mut hall = Hall::default();
    assert!(!hall.ask("one", 1, 1), "nobody else is there");
    assert!(!hall.ask("one", 1, 1));
    assert!(!hall.waiting.has_rivals());
    assert!(hall.ask("two", 1, 1));
    assert!(!hall.ask("two", 1, 1));
    assert!(hall.waiting.has_rivals());
    while hall.serve(1).is_some() {}
    for _ in 0..=PRESENT_REQUESTS {
        hall.ask("one", 1, 1);
        hall.serve(1);
    }
    assert!(!hall.waiting.has_rivals(), "it has not been seen for long");
    assert!(hall.ask("two", 1, 1));
}

#[test]
fn what_is_ahead_is_counted_with_replies_as_long_as_most() {
    let mut hall = Hall::default();
    hall.ask("one", 10, 1_000);
    hall.ask("two", 20, 3);
    let ahead = |prompt, reply| Ahead { prompt, reply };
    assert_eq!(
        hall.waiting.ahead(),
        ahead(30, u64::from(REPLY_TOKENS_GUESS) + 3)
    );
    let mut seat = hall.take(Place::Regular).unwrap();
    (0..40).for_each(|_| seat.count(1, true));
    hall.waiting.settle(seat);
    hall.ask("one", 10, 1_000);
    assert_eq!(hall.waiting.ahead(), ahead(30, 43));
}

proptest! {
    /// Two teams that always want something are never further apart than the largest requests and
    /// what was expected wrongly of those under way.
    #[test]
    fn no_team_falls_behind(
        sizes in prop::collection::vec((1_u32..400, 1_u32..400, 1_usize..4), 40..120),
    ) {
        let mut hall = Hall::default();
        for (prompt, output, _) in &sizes {
            hall.ask("one", *prompt as usize, *output);
            hall.ask("two", (*output * 2) as usize, *prompt);
        }
        let mut tokens = [0_i64; 2];
        let mut running: VecDeque<(Seat, u32)> = VecDeque::new();
        for (prompt, _, slots) in sizes {
            while running.len() >= slots {
                let (mut seat, computed) = running.pop_front().unwrap();
                seat.count(computed, true);
                hall.waiting.settle(seat);
            }
            let taken = hall.waiting.take_if(Place::Regular, |_| true);
            let Some((request, seat)) = taken else { break };
            let is_two = seat.team().unwrap().as_str() == "two";
            let computed = request.prompt.len() as u32 + prompt.min(request.output_max);
            tokens[usize::from(is_two)] += i64::from(computed);
            running.push_back((seat, computed));
            let apart = (tokens[0] - tokens[1]).abs();
            prop_assert!(apart <= 3 * 1_200, "{tokens:?}");
        }
    }
}
