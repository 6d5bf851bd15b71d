//! The vectors of one compartment. A few are looked through one by one. Many are parted into lists of
//! neighbours, each with its middle, and of those only the lists whose middles are nearest are looked
//! through.
//!
//! Of the known ways to find approximate neighbours this one was taken because entries come and go all
//! the time: a row is put in and taken out for good in one place, where a graph has to be kept connected
//! around what was removed. It is also the smaller: a row takes its code and sixteen bytes.

use std::collections::HashMap;
use std::sync::Arc;

use domain::EntryId;

use super::code::{Code, floats, product};
use super::list::List;

/// Rows of a list; one more and it is parted in two.
pub const LIST_ROWS_MAX: usize = 512;

/// Rows that one search looks at, up to one list more. A compartment with no more is searched whole.
pub const SEARCH_ROWS_MIN: usize = 8_192;

/// Of larger compartments one row of so many is looked at, and no more than [`SEARCH_ROWS_MAX`].
const SEARCH_SHARE: usize = 32;

/// Rows that one search looks at in the largest compartments: two to three milliseconds.
pub const SEARCH_ROWS_MAX: usize = 32_768;

/// Lists about one that was parted of which rows may move to its halves, or from them: without that, rows
/// stay where they were put when there were fewer middles, and a search passes them by.
const NEIGHBOURS: usize = 16;

/// Times that the two halves of a list find their middles anew.
const ROUNDS: usize = 4;

/// The rows of one compartment.
#[derive(Debug)]
pub struct Drawer {
    dimensions: usize,
    rows: usize,
    /// Never empty.
    lists: Vec<Arc<List>>,
    /// One for each list, side by side. Empty where there is one list.
    middles: Vec<i16>,
    /// Which list a row is in. Empty where there is one list.
    homes: HashMap<EntryId, u32>,
    /// Told apart by it: places of lists hold until it changes.
    shape: u64,
}

/// A list's place, for as long as the drawer keeps its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    list: usize,
    shape: u64,
}

/// A list with too many rows, and what to do about it.
#[derive(Debug)]
pub struct Parting {
    place: Place,
    middles: [Code; 2],
}

/// Rows that are nearer to the middle of another list than to that of their own.
#[derive(Debug)]
pub struct Moves {
    shape: u64,
    moves: Vec<Move>,
}

#[derive(Debug)]
struct Move {
    id: EntryId,
    from: usize,
    to: usize,
}

impl Drawer {
    pub fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            rows: 0,
            lists: vec![Arc::new(List::new(dimensions))],
            middles: Vec::new(),
            homes: HashMap::new(),
            shape: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn middle(&self, list: usize) -> &[i16] {
        &self.middles[list * self.dimensions..][..self.dimensions]
    }

    /// Where a code belongs.
    pub fn place_for(&self, code: &Code) -> Place {
        let nearness = |list: &usize| product(code.components(), self.middle(*list));
        let list = match self.lists.len() {
            1 => 0,
            count => (0..count).max_by_key(nearness).unwrap_or(0),
        };
        let shape = self.shape;
        Place { list, shape }
    }

    /// Puts a row in its place, or in the one it has now.
    pub fn put(&mut self, place: Place, id: EntryId, end_ms: u64, code: &Code) -> Place {
        let place = match place.shape == self.shape {
            true => place,
            false => self.place_for(code),
        };
        Arc::make_mut(&mut self.lists[place.list]).put(id, end_ms, code);
        self.rows += 1;
        if self.lists.len() > 1 {
            self.homes.insert(id, index(place.list));
        }
        place
    }

    fn list_of(&self, id: EntryId) -> Option<usize> {
        match self.lists.len() {
            1 => Some(0),
            _ => self.homes.get(&id).map(|list| *list as usize),
        }
    }

    /// Takes a row out. Gives false where there is none.
    pub fn take(&mut self, id: EntryId) -> bool {
        let Some(list) = self.list_of(id) else {
            return false;
        };
        // Looked for first: a list that others look through is copied before it is changed.
        if self.lists[list].row_of(id).is_none() {
            return false;
        }
        Arc::make_mut(&mut self.lists[list]).take(id);
        self.homes.remove(&id);
        self.rows -= 1;
        if self.lists[list].is_empty() && self.lists.len() > 1 {
            self.drop_list(list);
        }
        true
    }

    /// The last list takes the place of an empty one.
    fn drop_list(&mut self, list: usize) {
        self.shape += 1;
        self.lists.swap_remove(list);
        let last = self.middles.len() - self.dimensions;
        let place = list * self.dimensions;
        if place < last {
            self.middles.copy_within(last.., place);
        }
        self.middles.truncate(last);
        if self.lists.len() == 1 {
            self.middles = Vec::new();
            self.homes = HashMap::new();
            return;
        }
        let moved = self.lists.get(list).map(Arc::clone);
        for id in moved.iter().flat_map(|it| it.ids()) {
            self.homes.insert(*id, index(list));
        }
    }

    /// The code of a row that is here.
    pub fn code_of(&self, id: EntryId) -> Option<Vec<i16>> {
        let list = &self.lists[self.list_of(id)?];
        Some(list.code(list.row_of(id)?).to_vec())
    }

    pub fn ids(&self) -> Vec<EntryId> {
        let ids = self.lists.iter().flat_map(|it| it.ids());
        ids.copied().collect()
    }

    /// The lists to look through for neighbours of `query`, the nearest first.
    pub fn lists_near(&self, query: &Code) -> Vec<Arc<List>> {
        let wanted = self.rows / SEARCH_SHARE;
        let wanted = wanted.clamp(SEARCH_ROWS_MIN, SEARCH_ROWS_MAX);
        if self.rows <= wanted {
            return self.lists.clone();
        }
        let count = self.lists.len();
        let nearness = |list| product(query.components(), self.middle(list));
        let mut order: Vec<(i32, usize)> = (0..count).map(|it| (nearness(it), it)).collect();
        order.sort_unstable_by(|left, right| right.cmp(left));
        let (mut rows, mut lists) = (0, Vec::new());
        for (_, list) in order {
            let list = &self.lists[list];
            rows += list.len();
            lists.push(Arc::clone(list));
            if rows >= wanted {
                break;
            }
        }
        lists
    }

    /// The list at a place, where it has too many rows.
    pub fn crowded(&self, place: Place) -> Option<Arc<List>> {
        let list = self.lists.get(place.list)?;
        let is_crowded = place.shape == self.shape && list.len() > LIST_ROWS_MAX;
        is_crowded.then(|| Arc::clone(list))
    }

    /// Parts a list, and gives the places of its halves. `None` where the drawer has another shape by now.
    pub fn part(&mut self, parting: &Parting) -> Option<[Place; 2]> {
        let Parting { place, middles } = parting;
        if place.shape != self.shape {
            return None;
        }
        let list = &self.lists[place.list];
        let [one, two] = middles;
        let is_nearer = |_: usize, code: &[i16]| {
            product(one.components(), code) >= product(two.components(), code)
        };
        let (mut near, mut far) = list.parted(is_nearer);
        if near.is_empty() || far.is_empty() {
            // All alike: any half is as good as the other.
            let half = list.len() / 2;
            (near, far) = list.parted(|row, _| row < half);
        }
        self.shape += 1;
        let is_first = self.lists.len() == 1;
        let added = self.lists.len();
        let middle = place.list * self.dimensions;
        if is_first {
            self.middles = one.components().to_vec();
        } else {
            self.middles[middle..][..self.dimensions].copy_from_slice(one.components());
        }
        self.middles.extend_from_slice(two.components());
        if is_first {
            let ids = near.ids().iter();
            self.homes.extend(ids.map(|id| (*id, index(place.list))));
        }
        let ids = far.ids().iter();
        self.homes.extend(ids.map(|id| (*id, index(added))));
        self.lists[place.list] = Arc::new(near);
        self.lists.push(Arc::new(far));
        let shape = self.shape;
        Some([place.list, added].map(|list| Place { list, shape }))
    }

    /// What is to move between two new lists and those about them.
    pub fn moves_about(&self, halves: [Place; 2]) -> Moves {
        let shape = self.shape;
        let mut moves = Vec::new();
        if halves.iter().any(|it| it.shape != shape) {
            return Moves { shape, moves };
        }
        let halves = halves.map(|it| it.list);
        let about = self.lists_about(halves);
        for from in halves {
            self.add_moves(from, &about, &mut moves);
        }
        for from in about {
            self.add_moves(from, &halves, &mut moves);
        }
        Moves { shape, moves }
    }

    /// The lists whose middles are nearest to one of two.
    fn lists_about(&self, halves: [usize; 2]) -> Vec<usize> {
        let [one, two] = halves.map(|list| self.middle(list));
        let others = (0..self.lists.len()).filter(|list| !halves.contains(list));
        let mut about: Vec<(i32, usize)> = others
            .map(|list| {
                let middle = self.middle(list);
                (product(middle, one).max(product(middle, two)), list)
            })
            .collect();
        about.sort_unstable_by(|left, right| right.cmp(left));
        about.truncate(NEIGHBOURS);
        about.into_iter().map(|(_, list)| list).collect()
    }

    /// Rows of a list that are nearer to one of the others.
    fn add_moves(&self, from: usize, others: &[usize], moves: &mut Vec<Move>) {
        let list = &self.lists[from];
        for (row, id) in list.ids().iter().enumerate() {
            let code = list.code(row);
            let nearness = |list: usize| product(code, self.middle(list));
            let others = others.iter().map(|list| (nearness(*list), *list));
            if let Some((nearest, to)) = others.max()
                && nearest > nearness(from)
            {
                moves.push(Move { id: *id, from, to });
            }
        }
    }

    /// Moves rows, unless the drawer has another shape by now.
    pub fn move_rows(&mut self, moves: &Moves) {
        if moves.shape != self.shape {
            return;
        }
        for Move { id, from, to } in &moves.moves {
            // One may be gone by now; and no list is left empty.
            let is_there = self.homes.get(id) == Some(&index(*from));
            if !is_there || self.lists[*from].len() < 2 {
                continue;
            }
            let Some((end_ms, code)) = Arc::make_mut(&mut self.lists[*from]).take(*id) else {
                continue;
            };
            Arc::make_mut(&mut self.lists[*to]).put(*id, end_ms, &code);
            self.homes.insert(*id, index(*to));
        }
    }
}

impl Parting {
    /// Finds the middles of the two halves that `list` falls into.
    pub fn of(place: Place, list: &List) -> Option<Self> {
        let rows = list.len();
        let farthest = |from: &[i16]| {
            let nearness = |row: &usize| product(from, list.code(*row));
            (0..rows).min_by_key(nearness)
        };
        let one = farthest(list.code(0))?;
        let two = farthest(list.code(one))?;
        let mut middles = [list.code(one).to_vec(), list.code(two).to_vec()];
        let mut found = None;
        for _ in 0..ROUNDS {
            let [one, two] = &middles;
            let mut sums = [vec![0.0_f32; one.len()], vec![0.0_f32; one.len()]];
            for row in 0..rows {
                let code = list.code(row);
                let [first, second] = &mut sums;
                let sum = match product(one, code) >= product(two, code) {
                    true => first,
                    false => second,
                };
                for (sum, component) in sum.iter_mut().zip(code) {
                    *sum += f32::from(*component);
                }
            }
            let [first, second] = sums.map(|sum| Code::of(&sum));
            // Of a half without rows, or of rows that cancel out: what there was stays.
            let (Some(first), Some(second)) = (first, second) else {
                break;
            };
            middles = [first.components().to_vec(), second.components().to_vec()];
            found = Some([first, second]);
        }
        let alike = || Code::of(&floats(list.code(0))).map(|it| [it.clone(), it]);
        let middles = found.or_else(alike)?;
        Some(Self { place, middles })
    }
}

/// Lists are far fewer than entries, and those are in memory.
fn index(list: usize) -> u32 {
    list as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reuse::list::Nearest;

    const DIMENSIONS: usize = 16;

    /// Vectors about some middles, from a seed.
    struct Source(u64);

    impl Source {
        fn number(&mut self) -> f32 {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut it = self.0;
            it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((it ^ (it >> 31)) >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
        }

        fn vector(&mut self) -> Vec<f32> {
            (0..DIMENSIONS).map(|_| self.number()).collect()
        }

        fn near(&mut self, middle: &[f32], by: f32) -> Vec<f32> {
            middle.iter().map(|it| it + by * self.number()).collect()
        }
    }

    fn put(drawer: &mut Drawer, id: u64, code: &Code) {
        let place = drawer.place_for(code);
        let place = drawer.put(place, EntryId(id), u64::MAX, code);
        if let Some(list) = drawer.crowded(place) {
            let parting = Parting::of(place, &list).unwrap();
            let halves = drawer.part(&parting).unwrap();
            let moves = drawer.moves_about(halves);
            drawer.move_rows(&moves);
        }
    }

    fn nearest(drawer: &Drawer, query: &Code) -> Option<EntryId> {
        let mut nearest = Nearest::new(1);
        for list in drawer.lists_near(query) {
            list.scan(query, 0, 0, &mut nearest);
        }
        nearest.into_found().first().map(|it| it.id)
    }

    /// Every row is in one list, and is found to be there.
    fn check(drawer: &Drawer, expected: impl Iterator<Item = u64>) {
        let mut ids: Vec<u64> = drawer.ids().iter().map(|it| it.0).collect();
        ids.sort_unstable();
        let expected: Vec<u64> = expected.collect();
        assert_eq!(ids, expected);
        assert_eq!(drawer.rows, expected.len());
        for id in &expected {
            assert!(drawer.code_of(EntryId(*id)).is_some(), "{id} has a home");
        }
        if drawer.lists.len() > 1 {
            assert_eq!(drawer.homes.len(), drawer.rows);
            assert_eq!(drawer.middles.len(), drawer.lists.len() * DIMENSIONS);
            assert!(drawer.lists.iter().all(|it| !it.is_empty()));
        }
    }

    #[test]
    fn rows_come_and_go_and_each_stays_where_it_is_found() {
        let mut source = Source(7);
        let mut drawer = Drawer::new(DIMENSIONS);
        let codes: Vec<Code> = (0..4_000)
            .map(|_| Code::of(&source.vector()).unwrap())
            .collect();
        for (id, code) in codes.iter().enumerate() {
            put(&mut drawer, id as u64, code);
        }
        assert!(drawer.lists.len() > 4, "{} lists", drawer.lists.len());
        check(&drawer, 0..4_000);
        for id in (0..4_000).filter(|id| id % 3 != 0) {
            assert!(drawer.take(EntryId(id)) && !drawer.take(EntryId(id)));
        }
        check(&drawer, (0..4_000).filter(|id| id % 3 == 0));
        for id in (0..4_000).filter(|id| id % 3 == 0) {
            assert_eq!(
                drawer.code_of(EntryId(id)).as_deref(),
                Some(codes[usize::try_from(id).unwrap()].components())
            );
            assert!(drawer.take(EntryId(id)));
        }
        check(&drawer, 0..0);
        assert_eq!(drawer.lists.len(), 1, "an empty drawer is as a new one");
        put(&mut drawer, 1, &codes[1]);
        assert_eq!(nearest(&drawer, &codes[1]), Some(EntryId(1)));
    }

    #[test]
    fn rows_that_are_all_alike_are_parted_all_the_same() {
        let mut drawer = Drawer::new(DIMENSIONS);
        let code = Code::of(&[1.0; DIMENSIONS]).unwrap();
        for id in 0..3_000 {
            put(&mut drawer, id, &code);
        }
        check(&drawer, 0..3_000);
        let longest = drawer.lists.iter().map(|it| it.len()).max().unwrap();
        assert!(longest <= LIST_ROWS_MAX + 1, "{longest}");
    }

    #[test]
    fn of_many_rows_some_are_looked_at_and_the_nearest_is_among_them() {
        let mut source = Source(11);
        let mut drawer = Drawer::new(DIMENSIONS);
        let middles: Vec<_> = (0..200).map(|_| source.vector()).collect();
        let count = 2 * SEARCH_ROWS_MIN;
        for id in 0..count {
            let vector = source.near(&middles[id % middles.len()], 0.6);
            put(&mut drawer, id as u64, &Code::of(&vector).unwrap());
        }
        let mut right = 0;
        for id in (0..count).step_by(197) {
            let code = drawer.code_of(EntryId(id as u64)).unwrap();
            let query = source.near(&floats(&code), 0.05);
            let query = Code::of(&query).unwrap();
            let rows: usize = drawer.lists_near(&query).iter().map(|it| it.len()).sum();
            assert!(rows <= SEARCH_ROWS_MIN + LIST_ROWS_MAX, "{rows} rows");
            let mut best = Nearest::new(1);
            drawer
                .lists
                .iter()
                .for_each(|it| it.scan(&query, 0, 0, &mut best));
            let truth = best.into_found()[0].id;
            right += usize::from(nearest(&drawer, &query) == Some(truth));
        }
        let asked = count.div_ceil(197);
        assert!(right * 100 >= asked * 98, "{right} of {asked}");
    }

    #[test]
    fn a_place_of_another_shape_is_looked_for_anew() {
        let mut source = Source(3);
        let mut drawer = Drawer::new(DIMENSIONS);
        let code = Code::of(&source.vector()).unwrap();
        let stale = drawer.place_for(&code);
        for id in 0..2_000 {
            put(&mut drawer, id, &Code::of(&source.vector()).unwrap());
        }
        assert!(drawer.crowded(stale).is_none());
        drawer.put(stale, EntryId(9_999), u64::MAX, &code);
        assert_eq!(nearest(&drawer, &code), Some(EntryId(9_999)));
    }
}
