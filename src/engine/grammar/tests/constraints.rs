//! Expressions, choices and grammars: what they take and what they do not.

use super::judged::takes;
use super::*;

fn grammar(format: &OutputFormat) -> Result<Grammar, BadRequest> {
    let grammars = Grammars::new(&FakeVocabulary::default()).unwrap();
    match grammars.grammar(None, &held(format)) {
        Ok(grammar) => Ok(grammar.unwrap()),
        Err(BackendError::Declined { reason }) => Err(reason),
        Err(other) => panic!("{other:?}"),
    }
}

fn check(format: &OutputFormat, taken: &[&str], not_taken: &[&str]) {
    let grammar = grammar(format).unwrap();
    for text in taken {
        assert!(takes(&grammar, text), "{format:?} does not take {text:?}");
    }
    for text in not_taken {
        assert!(!takes(&grammar, text), "{format:?} takes {text:?}");
    }
    let vocabulary = FakeVocabulary::default();
    for seed in 0..3 {
        let drawn = draw_up_to(500, &vocabulary, &mut grammar.again(), seed);
        if let Some(text) = drawn.unwrap() {
            assert!(takes(&grammar, &text), "{format:?} gave {text:?}");
        }
    }
}

#[test]
fn an_expression_is_all_of_the_reply() {
    for (regex, taken, not_taken) in [
        ("a|bc", &["a", "bc"][..], &["b", "ab", "abc", ""][..]),
        ("^[0-9]{2}$", &["12"], &["1", "123"]),
        ("a*", &["", "a", "aaa"], &["b", "ab"]),
        (r"\d{3}-\d{4}", &["555-1234"], &["5551234"]),
        (r#"["/'<>]+"#, &["\"/'<>"], &["a"]),
        ("(?:é|字|😀)+", &["é字😀"], &["e"]),
        (r"a\nb", &["a\nb"], &["anb"]),
        ("(?<stop>a)b", &["ab"], &["a"]),
    ] {
        check(&OutputFormat::Regex(regex.to_owned()), taken, not_taken);
    }
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let texts = ["yes", "no", "no, never", "a|b", "é \"/\\\n", "<tool_call>"];
    let format = OutputFormat::Choice(texts.map(str::to_owned).to_vec());
    check(&format, &texts, &["", "ye", "nono", "a", "b", "yes "]);
    let one = OutputFormat::Choice(vec!["only".to_owned()]);
    check(&one, &["only"], &["onl", "onlyonly", ""]);
}

#[test]
fn a_grammar_takes_what_it_says() {
    let sum = "# sums\nroot ::= term (op term)* # all\nterm ::= [0-9]+ |\n  \"(\" root \")\"\n\
               op ::= \" \"? [-+*/] \" \"?\n";
    let chess = r#"root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?"#;
    for (text, taken, not_taken) in [
        (
            sum,
            &["1", "12+(3 * 4)", "((1))"][..],
            &["", "1+", "(1", "a"][..],
        ),
        (
            chess,
            &["1. e4 e5\n2. Nf3 O-O-O+\n"],
            &["1. e4 e5\n", "2. e4 e5\n1. a1 a1\n"],
        ),
        // The longest text that fits is not always the right one.
        (
            "root ::= \"a\" \"bc\" | \"ab\" \"d\"",
            &["abc", "abd"],
            &["ab", "abcd"],
        ),
        ("root ::= [a-c]+ \"cd\"", &["acd", "ccd"], &["cd", "acdd"]),
        (
            "root ::= a a\na ::= \"x\" | \"\"",
            &["", "x", "xx"],
            &["xxx"],
        ),
        (
            "root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} \"d\"{0}",
            &["aab", "aabbcc"],
            &["ab", "aab\u{64}", "aabccc"],
        ),
        (
            "root ::= [^\"\\\\\\n]* \"\\\"\"",
            &["ab é\"", "\""],
            &["a\nb\"", "a\\\""],
        ),
        (
            "root ::= \"\\x41\\u00e9\\U0001F600\" . [\\]\\-^]",
            &["Aé😀x]", "Aé😀\n-"],
            &["Aé😀x"],
        ),
        ("root ::= root \"a\" | \"b\"", &["b", "baa"], &["a", "ab"]),
        (
            "root ::= (\n  \"a\"\n  | \"b\"\n)\n\nunused-one ::= \"c\"",
            &["a", "b"],
            &["c"],
        ),
        (
            "root ::= \"</a>\" \"%json\" \"@b\" \"/\"",
            &["</a>%json@b/"],
            &["</a>"],
        ),
    ] {
        check(&OutputFormat::Grammar(text.to_owned()), taken, not_taken);
    }
}

#[test]
fn what_nothing_can_be_held_to_is_refused_where_it_stands() {
    let long = "a".repeat(REGEX_BYTES_MAX + 1);
    for (format, param, said) in [
        (OutputFormat::Regex("(?=a)b".into()), "regex", "(?:"),
        (OutputFormat::Regex("a^b".into()), "regex", "expression"),
        (
            OutputFormat::Regex(r"[^\s\S]".into()),
            "regex",
            "expression",
        ),
        (OutputFormat::Regex(long), "regex", "4096"),
        (OutputFormat::Grammar("root ::= a".into()), "grammar", "`a`"),
        (
            OutputFormat::Grammar("root ::= root".into()),
            "grammar",
            "grammar",
        ),
    ] {
        let refused = grammar(&format)
            .err()
            .unwrap_or_else(|| panic!("{format:?} is taken"));
        assert_eq!(refused.param, Some(format!("structured_outputs.{param}")));
        assert!(refused.message.contains(said), "{}", refused.message);
    }
}
