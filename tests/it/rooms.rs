//! Holds every room's dependencies against the table in `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::harness::root;

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Room {
    /// `None` allows every room.
    may_use: Option<BTreeSet<String>>,
    /// Crates that no room may depend on but those that keep them.
    keeps: BTreeSet<String>,
}

/// The words between backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn table(page: &str) -> BTreeMap<String, Room> {
    page.lines()
        .skip_while(|line| !line.starts_with("| room |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [room, _purpose, may_use, keeps] = cells.as_slice() else {
                panic!("a row has four cells: {line}");
            };
            let may_use = (*may_use != "all").then(|| quoted(may_use));
            let name = quoted(room).pop_first().expect("a row names its room");
            (
                name,
                Room {
                    may_use,
                    keeps: quoted(keeps),
                },
            )
        })
        .collect()
}

/// The names under `[dependencies]` of each folder in `src/`.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms = BTreeMap::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else {
            continue;
        };
        let manifest: toml::Table = text.parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        let names = manifest["dependencies"].as_table().unwrap().keys().cloned();
        rooms.insert(name, names.collect());
    }
    rooms
}

#[test]
fn every_room_is_in_the_table_and_keeps_to_it() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = table(&page);
    let found = dependencies();
    let names = |rooms: &[&String]| {
        rooms
            .iter()
            .map(|name| name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&table.keys().collect::<Vec<_>>()),
        names(&found.keys().collect::<Vec<_>>()),
        "the table and src/ list the same rooms"
    );
    for (room, uses) in &found {
        let rooms = uses.iter().filter(|name| found.contains_key(*name));
        if let Some(may_use) = &table[room].may_use {
            for name in rooms {
                assert!(
                    may_use.contains(name),
                    "{room} depends on {name}: not in the table"
                );
            }
        }
        for (keeper, row) in &table {
            let own = &table[room].keeps;
            let taken: Vec<_> = row.keeps.intersection(uses).collect();
            if keeper == room {
                assert_eq!(
                    taken.len(),
                    row.keeps.len(),
                    "{keeper} keeps what it does not use"
                );
            } else {
                let taken: Vec<_> = taken.into_iter().filter(|it| !own.contains(*it)).collect();
                assert!(
                    taken.is_empty(),
                    "{room} depends on {taken:?}, which {keeper} keeps"
                );
            }
        }
    }
}

#[test]
fn the_binary_depends_on_app_and_an_allocator_alone() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let names: Vec<&String> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(names, ["app", "tikv-jemallocator"]);
}

#[test]
fn the_table_reader_sees_what_a_row_says() {
    let page = "text\n| room | purpose | may depend on | keeps |\n| --- | --- | --- | --- |\n\
                | `a` | one | nothing | `x`, `y` |\n| `b` | all of it | all | - |\n\nmore";
    let read = table(page);
    assert_eq!(read["a"].may_use, Some(BTreeSet::new()));
    assert_eq!(
        read["a"].keeps,
        BTreeSet::from(["x".to_owned(), "y".to_owned()])
    );
    assert_eq!(read["b"].may_use, None);
}
