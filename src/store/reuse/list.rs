//! Rows of codes side by side, to be looked through from end to end.

use domain::EntryId;

use super::code::{Code, product};

/// Codes that lie near each other, each with whose it is and until when.
#[derive(Clone, Debug)]
pub struct List {
    dimensions: usize,
    ids: Vec<EntryId>,
    /// Unix milliseconds.
    ends: Vec<u64>,
    /// All components of the first, of the second, and so on.
    codes: Vec<i16>,
}

/// A row that was found, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: EntryId,
    pub product: i32,
    /// As the caller of [`List::scan`] counts them.
    pub list: usize,
    pub row: usize,
}

/// The nearest so far, the nearest first.
#[derive(Debug)]
pub struct Nearest {
    found: Vec<Found>,
    count_max: usize,
}

impl Nearest {
    pub fn new(count_max: usize) -> Self {
        Self {
            found: Vec::with_capacity(count_max),
            count_max,
        }
    }

    fn take(&mut self, found: Found) {
        if self.found.len() >= self.count_max {
            if self
                .found
                .last()
                .is_none_or(|it| it.product >= found.product)
            {
                return;
            }
            self.found.pop();
        }
        let at = self.found.partition_point(|it| it.product >= found.product);
        self.found.insert(at, found);
    }

    pub fn into_found(self) -> Vec<Found> {
        self.found
    }
}

impl List {
    pub fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            ids: Vec::new(),
            ends: Vec::new(),
            codes: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    pub fn code(&self, row: usize) -> &[i16] {
        &self.codes[row * self.dimensions..][..self.dimensions]
    }

    pub fn row_of(&self, id: EntryId) -> Option<usize> {
        self.ids.iter().position(|it| *it == id)
    }

    pub fn put(&mut self, id: EntryId, end_ms: u64, code: &Code) {
        self.push(id, end_ms, code.components());
    }

    fn push(&mut self, id: EntryId, end_ms: u64, code: &[i16]) {
        debug_assert_eq!(code.len(), self.dimensions);
        let len = self.codes.len();
        if len + self.dimensions > self.codes.capacity() {
            // By a quarter rather than to twice as much: most of what an index takes is these.
            let more = (len / 4)
                .max(self.dimensions)
                .next_multiple_of(self.dimensions);
            self.codes.reserve_exact(more);
        }
        self.ids.push(id);
        self.ends.push(end_ms);
        self.codes.extend_from_slice(code);
    }

    /// Takes the row out. Gives until when it is, and its code; `None` where there is none.
    pub fn take(&mut self, id: EntryId) -> Option<(u64, Code)> {
        let row = self.row_of(id)?;
        let code = Code::again(self.code(row));
        self.ids.swap_remove(row);
        let end_ms = self.ends.swap_remove(row);
        let last = self.codes.len() - self.dimensions;
        let place = row * self.dimensions;
        if place < last {
            self.codes.copy_within(last.., place);
        }
        self.codes.truncate(last);
        Some((end_ms, code))
    }

    /// Looks at every row whose time is not over. `list` is the caller's name of this list.
    pub fn scan(&self, query: &Code, now_ms: u64, list: usize, nearest: &mut Nearest) {
        let query = query.components();
        for (row, code) in self.codes.chunks_exact(self.dimensions).enumerate() {
            if self.ends[row] > now_ms {
                nearest.take(Found {
                    id: self.ids[row],
                    product: product(query, code),
                    list,
                    row,
                });
            }
        }
    }

    /// Those rows for which `is_first` says so, and the others.
    pub fn parted(&self, mut is_first: impl FnMut(usize, &[i16]) -> bool) -> (Self, Self) {
        let (mut first, mut second) = (Self::new(self.dimensions), Self::new(self.dimensions));
        for row in 0..self.len() {
            let code = self.code(row);
            let part = match is_first(row, code) {
                true => &mut first,
                false => &mut second,
            };
            part.push(self.ids[row], self.ends[row], code);
        }
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: u64, product: i32) -> Found {
        Found {
            id: EntryId(id),
            product,
            list: 0,
            row: 0,
        }
    }

    #[test]
    fn the_nearest_come_first_and_no_more_than_asked_for() {
        let mut nearest = Nearest::new(3);
        for (id, product) in [(1, 5), (2, 9), (3, 1), (4, 7), (5, 9), (6, 0)] {
            nearest.take(found(id, product));
        }
        let ids: Vec<_> = nearest.into_found().iter().map(|it| it.id.0).collect();
        assert_eq!(ids, [2, 5, 4]);
        let mut none = Nearest::new(0);
        none.take(found(1, 1));
        assert!(none.into_found().is_empty());
    }

    #[test]
    fn what_is_taken_out_leaves_the_others_whole() {
        let code = |at: usize| {
            let mut vector = [0.0; 4];
            vector[at] = 1.0;
            Code::of(&vector).unwrap()
        };
        let mut list = List::new(4);
        for at in 0..4 {
            list.put(EntryId(at as u64), 10, &code(at));
        }
        assert_eq!(list.take(EntryId(1)), Some((10, code(1))));
        assert_eq!(list.take(EntryId(1)), None);
        assert!(list.take(EntryId(3)).is_some());
        for id in [0, 2] {
            let row = list.row_of(EntryId(id)).unwrap();
            assert_eq!(
                list.code(row),
                code(usize::try_from(id).unwrap()).components()
            );
        }
        assert_eq!(list.len(), 2);
        let mut nearest = Nearest::new(4);
        list.scan(&code(2), 10, 0, &mut nearest);
        assert!(nearest.into_found().is_empty(), "their time is over");
    }
}
