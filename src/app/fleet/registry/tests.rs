use super::*;

const KEEP: Duration = Duration::from_secs(300);

fn terms(name: &str, need: u64) -> Terms {
    Terms {
        name: name.to_owned(),
        need,
        is_loaded_at_start: false,
        keep_alive: Some(KEEP),
    }
}

fn pinned(name: &str, need: u64) -> Terms {
    Terms {
        is_loaded_at_start: true,
        keep_alive: None,
        ..terms(name, need)
    }
}

/// A registry at a time that passes as told.
struct Desk {
    registry: Registry,
    now: Instant,
}

impl Desk {
    fn new(budget: u64, models: impl IntoIterator<Item = Terms>) -> Self {
        let now = Instant::now();
        Self {
            registry: Registry::new(budget, models, now),
            now,
        }
    }

    fn pass(&mut self, seconds: u64) -> Vec<Act> {
        self.now += Duration::from_secs(seconds);
        self.registry.decide(self.now)
    }

    fn ask(&mut self, model: usize) -> Vec<Act> {
        self.registry.hold(model, self.now).unwrap();
        self.pass(1)
    }

    fn end(&mut self, model: usize) -> Vec<Act> {
        self.registry.release(model, self.now);
        self.pass(1)
    }

    /// Asked for, loaded, answered.
    fn use_once(&mut self, model: usize) {
        assert_eq!(self.ask(model), vec![Act::Load(model)]);
        self.registry.loaded(model, self.now);
        assert_eq!(self.end(model), vec![]);
    }
}

#[test]
fn a_model_is_loaded_by_the_first_request_and_only_once() {
    let mut desk = Desk::new(100, [terms("a", 10)]);
    assert_eq!(desk.pass(1), vec![]);
    assert_eq!(desk.ask(0), vec![Act::Load(0)]);
    assert_eq!(desk.ask(0), vec![]);
    desk.registry.loaded(0, desk.now);
    assert_eq!(desk.ask(0), vec![]);
    assert_eq!(desk.registry.holds(0), 3);
}

#[test]
fn what_is_loaded_at_the_start_is_loaded_without_a_request_and_pinned_stays() {
    let mut desk = Desk::new(100, [pinned("a", 10), terms("b", 10)]);
    assert_eq!(desk.pass(0), vec![Act::Load(0)]);
    desk.registry.loaded(0, desk.now);
    assert_eq!(desk.pass(1_000_000), vec![]);
    assert_eq!(desk.registry.wake_at(), None);
}

#[test]
fn an_idle_model_leaves_when_its_time_is_over_and_not_while_it_is_held() {
    let mut desk = Desk::new(100, [terms("a", 10)]);
    desk.ask(0);
    desk.registry.loaded(0, desk.now);
    assert_eq!(desk.pass(10_000), vec![], "a request is under way");
    desk.end(0);
    let leaves_at = desk.registry.wake_at().unwrap();
    assert_eq!(leaves_at, desk.registry.idle_since(0).unwrap() + KEEP);
    assert_eq!(desk.pass(298), vec![]);
    assert_eq!(desk.pass(1), vec![Act::Unload(0, Cause::Idle)]);
    assert_eq!(desk.registry.wake_at(), None);
    // One that comes meanwhile waits until it is out, and is then loaded again.
    assert_eq!(desk.ask(0), vec![]);
    desk.registry.unloaded(0);
    assert_eq!(desk.pass(0), vec![Act::Load(0)]);
}

#[test]
fn without_a_time_to_stay_it_leaves_after_its_last_reply() {
    let brief = Terms {
        keep_alive: Some(Duration::ZERO),
        ..terms("a", 10)
    };
    let mut desk = Desk::new(100, [brief]);
    desk.ask(0);
    desk.ask(0);
    desk.registry.loaded(0, desk.now);
    assert_eq!(desk.end(0), vec![]);
    assert_eq!(desk.end(0), vec![Act::Unload(0, Cause::Idle)]);
}

#[test]
fn the_one_not_asked_for_longest_makes_room() {
    let mut desk = Desk::new(
        30,
        [
            terms("a", 10),
            terms("b", 10),
            terms("c", 10),
            terms("d", 10),
        ],
    );
    for model in [0, 1, 2] {
        desk.use_once(model);
    }
    // Used again, so that the second is now the oldest.
    desk.ask(0);
    desk.end(0);
    assert_eq!(desk.ask(3), vec![Act::Unload(1, Cause::Memory)]);
    // Not before it is out.
    assert_eq!(desk.pass(1), vec![]);
    desk.registry.unloaded(1);
    assert_eq!(desk.pass(0), vec![Act::Load(3)]);
    assert_eq!(desk.registry.in_use(), 30);
}

#[test]
fn neither_held_nor_pinned_models_make_room() {
    let mut desk = Desk::new(30, [pinned("a", 10), terms("b", 10), terms("c", 20)]);
    desk.pass(0);
    desk.registry.loaded(0, desk.now);
    desk.ask(1);
    desk.registry.loaded(1, desk.now);
    assert_eq!(
        desk.ask(2),
        vec![],
        "the second is held, the first is pinned"
    );
    let shortage = desk.registry.does_not_fit(2).unwrap();
    assert_eq!(
        shortage.in_use,
        [("a".to_owned(), 10), ("b".to_owned(), 10)]
    );
    assert_eq!(desk.end(1), vec![Act::Unload(1, Cause::Memory)]);
}

#[test]
fn nobody_leaves_where_that_would_not_make_room() {
    let mut desk = Desk::new(30, [terms("a", 10), terms("b", 10), terms("c", 25)]);
    desk.use_once(0);
    desk.ask(1);
    desk.registry.loaded(1, desk.now);
    assert_eq!(desk.ask(2), vec![]);
    assert_eq!(desk.registry.state(0), State::Loaded);
}

#[test]
fn a_large_one_that_waits_is_not_overtaken() {
    let mut desk = Desk::new(30, [terms("a", 20), terms("b", 30), terms("c", 10)]);
    desk.ask(0);
    desk.registry.loaded(0, desk.now);
    assert_eq!(desk.ask(1), vec![]);
    assert_eq!(desk.ask(2), vec![], "it would fit, and came later");
    // Those who waited for the large one leave: nothing is loaded for nobody.
    assert_eq!(desk.end(1), vec![Act::Load(2)]);
}

#[test]
fn what_cannot_fit_is_refused_at_once_with_the_numbers() {
    const MIB: u64 = 1024 * 1024;
    let mut desk = Desk::new(
        100 * MIB,
        [pinned("base", 60 * MIB), terms("big", 50 * MIB)],
    );
    let denied = desk.registry.hold(1, desk.now).unwrap_err();
    let Denied::TooLarge(shortage) = denied else {
        panic!("{denied:?}");
    };
    assert_eq!(
        shortage.to_string(),
        "it needs 50 MiB, local.memory_bytes_max is 100 MiB and 60 MiB of it is in use: base 60 MiB"
    );
    assert_eq!(desk.registry.holds(1), 0);
    assert_eq!(desk.pass(1), vec![Act::Load(0)]);
}

#[test]
fn a_model_that_failed_is_tried_again_after_a_while_if_it_may_be() {
    let mut desk = Desk::new(100, [terms("a", 10), terms("b", 10)]);
    for (model, may_retry) in [(0, true), (1, false)] {
        desk.ask(model);
        desk.registry.failed(model, desk.now, may_retry);
        desk.end(model);
        assert_eq!(desk.registry.hold(model, desk.now), Err(Denied::Failed));
    }
    assert_eq!(desk.registry.in_use(), 0);
    desk.pass(RETRY_AFTER.as_secs());
    assert_eq!(desk.ask(0), vec![Act::Load(0)]);
    assert_eq!(desk.registry.hold(1, desk.now), Err(Denied::Failed));
}

#[test]
fn the_wait_is_what_the_last_load_took_less_what_has_passed() {
    let mut desk = Desk::new(100, [terms("a", 10)]);
    desk.registry.hold(0, desk.now).unwrap();
    desk.pass(0);
    desk.pass(20);
    desk.registry.loaded(0, desk.now);
    desk.end(0);
    desk.pass(300);
    desk.registry.unloaded(0);
    let wait = |desk: &Desk| desk.registry.load_wait(0, desk.now).as_secs();
    assert_eq!(wait(&desk), 20);
    desk.registry.hold(0, desk.now).unwrap();
    assert_eq!(desk.pass(0), vec![Act::Load(0)]);
    desk.pass(15);
    assert_eq!(wait(&desk), 5);
    desk.pass(15);
    assert_eq!(wait(&desk), 1);
}

#[test]
fn those_for_the_start_must_fit_together() {
    let models = [pinned("a", 40), terms("b", 90), pinned("c", 70)];
    assert_eq!(first_without_room(110, &models), None);
    let (at, shortage) = first_without_room(100, &models).unwrap();
    assert_eq!((at, shortage.needs), (2, 70));
    assert_eq!(shortage.in_use, [("a".to_owned(), 40)]);
}
