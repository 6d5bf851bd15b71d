use super::*;

const TERMS: Terms = Terms {
    most: 15,
    price: Price {
        row: 0.1,
        switch: 0.1,
    },
    credit: 0.0,
};

fn tokens(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

/// Plays `reply` after `prompt`, and returns the steps it took and the price of all drafts.
fn play(prompt: &str, reply: &str, drafter: &mut Drafter, credit: &mut Credit) -> (u32, f64) {
    let (mut said, reply) = (tokens(prompt), tokens(reply));
    let end = said.len() + reply.len();
    let whole = [said.clone(), reply].concat();
    let (mut steps, mut paid, mut before) = (0, 0.0, 0);
    while said.len() < end {
        let mut draft = Vec::new();
        let terms = Terms {
            credit: credit.of_reply(),
            ..TERMS
        };
        drafter.propose(&said, terms, |_| false, &mut draft);
        let drafted = u32::try_from(draft.len()).unwrap();
        if drafted > 0 {
            paid += TERMS.price.of(drafted, before);
        }
        before = drafted;
        let left = &whole[said.len()..];
        let right = draft.iter().zip(left).take_while(|(a, b)| a == b).count();
        let drawn = (right + 1).min(left.len());
        said.extend(&left[..drawn]);
        let accepted = u32::try_from(right).unwrap();
        let verdict = Verdict {
            drafted,
            accepted,
            was_wrong: accepted < drafted && right < left.len(),
        };
        drafter.settle(verdict, u32::try_from(drawn).unwrap(), credit);
        steps += 1;
    }
    (steps, paid)
}

fn drafter(prompt: &str) -> Drafter {
    Drafter::new(prompt.len(), 1_024, Vec::new())
}

const RECORDS: &str = "{id: 1, name: 'ann', tags: []} {id: 2, name: 'bob', tags: []} ";

#[test]
fn a_copy_is_drafted_ever_longer() {
    let prompt = RECORDS.repeat(2);
    let (steps, paid) = play(
        &prompt,
        &RECORDS.repeat(2),
        &mut drafter(&prompt),
        &mut Credit::default(),
    );
    let time = f64::from(steps) + paid;
    assert!(time * 3.0 < 2.0 * RECORDS.len() as f64, "{steps} {paid}");
}

#[test]
fn a_loop_is_drafted_beyond_what_was_said() {
    let mut drafter = drafter("");
    drafter.purse = 5.0;
    let mut draft = Vec::new();
    drafter.propose(&tokens("xabcabcabcabc"), TERMS, |_| false, &mut draft);
    assert_eq!(draft, tokens("abcabcab"));
}

#[test]
fn what_ends_a_reply_is_not_drafted() {
    let mut drafter = drafter("");
    drafter.purse = 5.0;
    let mut draft = Vec::new();
    let is_end = |token| token == Token::from(b';');
    drafter.propose(&tokens("abcdefghij;abcdefgh"), TERMS, is_end, &mut draft);
    assert_eq!(draft, tokens("ij"));
}

/// A text in which every pair of letters recurs and nothing follows from it.
fn noise(length: usize) -> String {
    let mut state = 7_u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + u8::try_from((state >> 24) % 4).unwrap())
    };
    (0..length).map(letter).collect()
}

#[test]
fn replies_of_which_nothing_can_be_guessed_are_hardly_slower() {
    for length in [40, 200, 1_000] {
        let text = noise(50 + length * 20);
        let mut credit = Credit::default();
        let (mut lost, mut all) = (0.0, 0.0);
        for reply in 0..20 {
            let at = 50 + length * reply;
            let (prompt, said) = (&text[..50], &text[at..at + length]);
            let (steps, paid) = play(prompt, said, &mut drafter(prompt), &mut credit);
            lost += f64::from(steps) + paid - length as f64;
            all += length as f64;
        }
        assert!(lost < 0.02 * all + Credit::MAX, "{lost} of {all}");
    }
}

#[test]
fn credit_is_for_those_who_repay_it() {
    let prompt = RECORDS.repeat(2);
    let mut credit = Credit(Credit::REPLY_MAX);
    play(
        &prompt,
        &RECORDS.repeat(2),
        &mut drafter(&prompt),
        &mut credit,
    );
    assert!(credit.0 > Credit::REPLY_MAX, "{credit:?}");
    let wrong = Verdict {
        drafted: 4,
        accepted: 0,
        was_wrong: true,
    };
    for _ in 0..10 {
        let mut drafter = drafter("");
        drafter.paid = credit.of_reply().min(1.5);
        drafter.settle(wrong, 1, &mut credit);
    }
    assert!(credit.of_reply() < 0.1, "{credit:?}");
}

#[test]
fn a_prediction_goes_first_and_is_found_again() {
    let predicted = "fn old_name(a: u32) -> u32 { old_name(a - 1) + 1 }";
    let reply = predicted.replace("old", "new");
    let mut drafter = Drafter::new(2, 1_024, tokens(predicted));
    let (steps, _) = play("go", &reply, &mut drafter, &mut Credit::default());
    assert!(steps < 25, "{steps}");
}
