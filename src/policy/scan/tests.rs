use std::sync::LazyLock;

use domain::{Message, OutputFormat, Role};
use proptest::prelude::*;

use super::*;
use crate::{RESTORED_BYTES_MAX, Room, Unmasker};

static RULES: LazyLock<ScanRules> = LazyLock::new(ScanRules::default);

fn request(text: &str) -> ChatRequest {
    ChatRequest::new("auto", vec![Message::new(Role::User, text)])
}

fn masked(rules: &ScanRules, text: &str) -> String {
    let request = request(text);
    let findings = rules.scan(&request).unwrap();
    findings.masked_view(request, Trust::Public).messages[0].text()
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    let rules = &*RULES;
    for (text, wanted) in cases {
        assert_eq!(masked(rules, text), *wanted);
    }
}

#[test]
fn addresses_are_found_and_look_alikes_are_not() {
    check(&[
        (
            "write to ann.lee+x@mail.example.org.",
            "write to <EMAIL_1>.",
        ),
        (
            "<a@b.co>, c@d.io; a@b.co",
            "<<EMAIL_1>>, <EMAIL_2>; <EMAIL_1>",
        ),
        (
            "npm i pkg@1.2.3 @scope/name@latest",
            "npm i pkg@1.2.3 @scope/name@latest",
        ),
        (
            "git@github.com:a/b.git user@localhost",
            "git@github.com:a/b.git user@localhost",
        ),
        ("a@b@c.de @handle x@y", "a@b@c.de @handle x@y"),
    ]);
}

/// Of a number that is masked a string is made, so that a call's arguments stay an object.
#[test]
fn a_number_among_arguments_is_masked_as_a_string() {
    for (arguments, wanted) in [
        (r#"{"card":4111111111111111}"#, r#"{"card":"<CARD_1>"}"#),
        (
            r#"{"card": 4111111111111111, "as": "4111111111111111 x"}"#,
            r#"{"card": "<CARD_1>", "as": "<CARD_1> x"}"#,
        ),
        (r#"{"card":"4111111111111111"}"#, r#"{"card":"<CARD_1>"}"#),
        ("card: 4111111111111111", "card: <CARD_1>"),
    ] {
        let mut request = request("go on");
        request.messages[0].tool_calls = vec![domain::ToolCall {
            id: "c".into(),
            name: "pay".into(),
            arguments: arguments.into(),
            seal: None,
        }];
        let findings = RULES.scan(&request).unwrap();
        let masked = findings.masked_view(request, Trust::Public);
        assert_eq!(masked.messages[0].tool_calls[0].arguments, wanted);
    }
}

/// A short reply may name a long value often.
#[test]
fn what_values_add_to_a_reply_is_bounded() {
    let key = format!("-----BEGIN PRIVATE KEY-----\n{}", "A".repeat(1_000_000));
    let findings = RULES.scan(&request(&key)).unwrap();
    let room = Room::default();
    let mut all = 0;
    for _ in 0..2 {
        let mut unmasker = Unmasker::new(&findings).within(&room);
        let restored = unmasker.push(&"<SECRET_1>".repeat(10_000));
        assert!(restored.ends_with("<SECRET_1>"));
        all += restored.len();
    }
    assert!(all > 10_000_000 && all < RESTORED_BYTES_MAX + 200_000);
}

/// Patterns take as much as they can, and what they took beyond a value is not lost with it.
#[test]
fn values_behind_and_before_others_are_found() {
    check(&[
        (
            "from DE89370400440532013000 to GB29NWBK60161331926819",
            "from <IBAN_1> to <IBAN_2>",
        ),
        (
            "DE89370400440532013000 GB29NWBK60161331926819 and AT611904300234573201",
            "<IBAN_1> <IBAN_2> and <IBAN_3>",
        ),
        ("Ref RE42 DE89 3704 0044 0532 0130 00", "Ref RE42 <IBAN_1>"),
        (
            "Invoice AB12 DE89370400440532013000",
            "Invoice AB12 <IBAN_1>",
        ),
        ("4111 1111 1111 1111 12/27 123", "<CARD_1> 12/27 123"),
        ("4111111111111111 123", "<CARD_1> 123"),
        ("378282246310005 12/27", "<CARD_1> 12/27"),
        ("2 4111 1111 1111 1111", "2 <CARD_1>"),
        (
            "order 12345678 4111 1111 1111 1111 20261231",
            "order 12345678 <CARD_1> 20261231",
        ),
        (
            "4111 1111 1111 1111 5555 5555 5555 4444",
            "<CARD_1> <CARD_2>",
        ),
        (
            "1234 4111 1111 1111 1111, 4111 1111 1111 1111 1234",
            "1234 4111 1111 1111 1111, 4111 1111 1111 1111 1234",
        ),
        ("+1 415 555 2671 24/7", "<PHONE_1> 24/7"),
        ("+1 415 555 2671 10:30", "<PHONE_1> 10:30"),
        ("+49 30 901820 9:00", "<PHONE_1> 9:00"),
        ("+1 415 555 2671 2 people", "<PHONE_1> 2 people"),
    ]);
}

#[test]
fn an_address_behind_another_one_is_no_host() {
    check(&[
        (
            r#"{"url":"https://ann.example","email":"ann@example.com"}"#,
            r#"{"url":"https://ann.example","email":"<EMAIL_1>"}"#,
        ),
        (
            "Ann,https://ann.example,ann@example.com",
            "Ann,https://ann.example,<EMAIL_1>",
        ),
        (
            "[site](https://ann.example),ann@example.com",
            "[site](https://ann.example),<EMAIL_1>",
        ),
        (
            "https://ann:pw@db.example.com",
            "https://ann:pw@db.example.com",
        ),
    ]);
}

#[test]
fn scripts_without_spaces_and_emphasis_hide_nothing() {
    check(&[
        ("联系邮箱ann@example.com谢谢", "联系邮箱<EMAIL_1>谢谢"),
        ("メールはann@example.comです", "メールは<EMAIL_1>です"),
        ("메일은ann@example.com입니다", "메일은<EMAIL_1>입니다"),
        ("电话+8613812345678", "电话<PHONE_1>"),
        ("卡号4111111111111111。", "卡号<CARD_1>。"),
        ("账号DE89370400440532013000", "账号<IBAN_1>"),
        (
            "_ann@example.com_ or *b@c.io*",
            "_<EMAIL_1>_ or *<EMAIL_2>*",
        ),
        ("jürgen.müller@example.de", "<EMAIL_1>"),
        (
            "x4111111111111111 é4111111111111111",
            "x4111111111111111 é4111111111111111",
        ),
    ]);
}

/// JSON within a text, whole or in part.
#[test]
fn escapes_in_texts_hide_nothing() {
    check(&[
        (
            r#"{"stdout":"name\n4111 1111 1111 1111\n+49 30 901820\tDE89370400440532013000"}"#,
            r#"{"stdout":"name\n<CARD_1>\n<PHONE_1>\t<IBAN_1>"}"#,
        ),
        (
            r#"{"phone":"\u002B4930901820"}"#,
            r#"{"phone":"<PHONE_1>"}"#,
        ),
        (
            r#"It said {"a":"b\n4111111111111111"}."#,
            r#"It said {"a":"b\n<CARD_1>"}."#,
        ),
    ]);
}

#[test]
fn cards_need_an_issuer_and_a_check_digit() {
    check(&[
        ("4111 1111 1111 1111", "<CARD_1>"),
        (
            "card: 5555-5555-5555-4444, amex 378282246310005",
            "card: <CARD_1>, amex <CARD_2>",
        ),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("order 1234567890123456", "order 1234567890123456"),
        (
            "id 84111111111111111 x4111111111111111",
            "id 84111111111111111 x4111111111111111",
        ),
        (
            "v4.111111111111111 4111111111111111.5",
            "v4.111111111111111 4111111111111111.5",
        ),
    ]);
}

#[test]
fn ibans_need_their_country_s_length_and_checksum() {
    check(&[
        ("DE89 3704 0044 0532 0130 00 please", "<IBAN_1> please"),
        ("pay GB29NWBK60161331926819.", "pay <IBAN_1>."),
        ("gb29 nwbk 6016 1331 9268 19 to me", "<IBAN_1> to me"),
        ("DE89370400440532013001", "DE89370400440532013001"),
        // Without regard to case `S` is also `ſ`, and `K` the sign for Kelvin: cutting there panicked.
        ("Aſ12345678901234567", "Aſ12345678901234567"),
        ("\u{212a}A12345678901234567", "\u{212a}A12345678901234567"),
        ("ZZ89370400440532013000", "ZZ89370400440532013000"),
    ]);
}

#[test]
fn phone_numbers_need_a_plus_and_a_country() {
    check(&[
        (
            "call +49 30 901820 or +1 (415) 555-2671",
            "call <PHONE_1> or <PHONE_2>",
        ),
        ("+351212345678", "<PHONE_1>"),
        ("5+12345678901 and 1+1", "5+12345678901 and 1+1"),
        ("+1 015 555 2671", "+1 015 555 2671"),
        (
            "+20240131120000 a line of a patch",
            "+20240131120000 a line of a patch",
        ),
    ]);
}

#[test]
fn secrets_are_found_and_examples_are_not() {
    // Put together here, so that no scanner of source code takes them for real.
    let key = |prefix: &str, rest: &str| format!("{prefix}{rest}");
    let openai = key("sk-", "proj-a1B2c3D4e5F6g7H8i9J0k1L2");
    let amazon = key("AKIA", "Q3EGRZK7LMNP2T4V");
    let github = key("ghp_", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
    let token = format!(
        "{}.{}.{}",
        key("eyJ", "hbGciOiJIUzI1"),
        key("eyJ", "zdWIiOiIxMjM0"),
        "SflKxwRJSMeKKF2QT4"
    );
    let pem = key(
        "-----BEGIN RSA PRIVATE",
        " KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----",
    );
    let cut = key(
        "-----BEGIN PRIVATE",
        " KEY-----\nMIIEowIBAAKCAQEAx1y2z3\nMIIEowIBAAKCAQEAx1y2z3",
    );
    for secret in [openai, amazon, github, token, pem, cut] {
        let text = format!("a {secret} b");
        assert_eq!(masked(&RULES, &text), "a <SECRET_1> b", "{secret}");
    }
    check(&[
        (
            "postgres://app:Tr0ub4dor@db.example.com/x",
            "postgres://app:<SECRET_1>@db.example.com/x",
        ),
        (
            "postgres://app:password@db.example.com/x",
            "postgres://app:password@db.example.com/x",
        ),
        (
            "postgres://app:${PASSWORD}@db/x",
            "postgres://app:${PASSWORD}@db/x",
        ),
        (
            "AKIAIOSFODNN7EXAMPLE sk-your-key-goes-here1 task-1234567890abcdefgh",
            "AKIAIOSFODNN7EXAMPLE sk-your-key-goes-here1 task-1234567890abcdefgh",
        ),
        ("sk-learn-contrib-something", "sk-learn-contrib-something"),
    ]);
}

#[test]
fn a_private_key_ends_with_its_last_line_or_its_base64() {
    let begin = ["-----BEGIN PRIVATE", " KEY-----"].concat();
    let end = ["-----END PRIVATE", " KEY-----"].concat();
    let line = "MIIEowIBAAKCAQEAx1y2z3";
    let masked = |text: &str| masked(&RULES, text);
    let escaped = format!("{begin}\\n{line}\\r\\n{line}");
    assert_eq!(masked(&format!("{escaped}\\n ok")), "<SECRET_1>\\n ok");
    let certificate = "-----END CERTIFICATE-----";
    assert_eq!(
        masked(&format!("{begin}{certificate} x {end}!")),
        "<SECRET_1>!"
    );
    assert_eq!(
        masked(&format!("{begin}\nno é key {end}")),
        format!("<SECRET_1>\nno é key {end}")
    );
    // The first is cut; the second is whole.
    let two = format!("{begin}\n{line} \n{begin}\nMII\n{end}\n");
    assert_eq!(masked(&two), "<SECRET_1> \n<SECRET_2>\n");
    let long = format!("{begin}\n{}\n{end}", "abcdefghijklmnop\n".repeat(2_000));
    assert!(masked(&long).starts_with("<SECRET_1>\nabcd"));
    let long = format!("{begin}{}é", format!("\n{line}").repeat(2_000));
    assert_eq!(masked(&long), "<SECRET_1>é");
}

/// Four megabytes of `a@b.co` took minutes: each match was held against all before it.
#[test]
fn hostile_texts_are_scanned_and_masked_in_one_pass() {
    let begin = ["-----BEGIN PRIVATE", " KEY-----"].concat();
    let closed = [begin.as_str(), "-----END PRIVATE", " KEY-----"].concat();
    let escaped = [begin.as_str(), "\\n \\n"].concat();
    for piece in [
        "a@b.co ",
        "<EMAIL_1",
        "4111 1111 1111 1111, ",
        "DE89370400440532013000 ",
        &begin,
        &closed,
        &escaped,
        "-----END -----BEGIN ",
        "eyJ",
        "sk-a1b2c3d4e5f6g7h8",
        "a://b:",
        "+49 30 901820,",
        "Aſ12",
    ] {
        let text = piece.repeat((1 << 20) / piece.len());
        let request = request(&text);
        let findings = RULES.scan(&request).unwrap();
        let masked = findings.masked_view(request, Trust::Public).messages[0].text();
        let mut unmasker = Unmasker::new(&findings);
        let restored = unmasker.push(&masked) + &unmasker.finish();
        assert!(restored == text, "{piece}");
    }
}

#[test]
fn many_values_in_many_texts_are_masked_in_one_pass() {
    let mut request = request("");
    request.messages = (0..40_000)
        .map(|at| Message::new(Role::User, format!("u{}@b.co", at % FINDINGS_MAX)))
        .collect();
    let findings = RULES.scan(&request).unwrap();
    assert_eq!(findings.iter().count(), FINDINGS_MAX);
    let seen = findings.masked_view(request, Trust::Public);
    let is_masked = |message: &Message| message.text().starts_with("<EMAIL_");
    assert!(seen.messages.iter().all(is_masked));
}

#[test]
fn numbers_names_and_addresses_of_images_are_masked() {
    let mut request = request("hi");
    request.messages[0].name = Some("a@b.co".into());
    request.extra = serde_json::from_value(serde_json::json!({
        "metadata": {"c@d.co": 4_111_111_111_111_111_u64, "n": 7},
    }))
    .unwrap();
    request.messages[0].tool_calls = vec![domain::ToolCall {
        seal: None,
        id: "a@b.co".into(),
        name: "f".into(),
        arguments: r#"{"to": "a\u0040b.co", "n": 7}"#.into(),
    }];
    request.messages[0].tool_call_id = Some("a@b.co".into());
    request.messages[0].content = vec![domain::Part::Image(domain::Image {
        url: "https://a.example/?by=a@b.co".into(),
        detail: None,
    })];
    let findings = RULES.scan(&request).unwrap();
    let seen = findings.masked_view(request, Trust::Public);
    let message = &seen.messages[0];
    assert_eq!(message.name, None);
    assert_eq!(
        serde_json::to_string(&seen.extra).unwrap(),
        r#"{"metadata":{"<EMAIL_2>":"<CARD_1>","n":7}}"#
    );
    assert_eq!(message.tool_calls[0].id, "<EMAIL_1>");
    assert_eq!(message.tool_call_id.as_deref(), Some("<EMAIL_1>"));
    assert_eq!(
        message.tool_calls[0].arguments,
        r#"{"to": "<EMAIL_1>", "n": 7}"#
    );
    let domain::Part::Image(image) = &message.content[0] else {
        panic!("still an image");
    };
    assert_eq!(image.url, "https://a.example/?by=<EMAIL_1>");
}

#[test]
fn placeholders_the_request_already_holds_are_passed_over() {
    check(&[(
        "<EMAIL_1> <EMAIL_3> a@b.co c@d.co",
        "<EMAIL_1> <EMAIL_3> <EMAIL_2> <EMAIL_4>",
    )]);
}

#[test]
fn operators_rules_come_first_and_may_name_the_value() {
    let custom = [CustomRule {
        name: "case".to_owned(),
        pattern: r"case (?<value>[A-Z]{2}\d{4})".to_owned(),
        trust_min: Trust::Device,
    }];
    let rules = ScanRules::compile(&DEFAULT_CLASSES, &custom).unwrap();
    assert_eq!(masked(&rules, "case AB1234"), "case <CUSTOM_1>");
    let request = request("case AB1234 a@b.co");
    let findings = rules.scan(&request).unwrap();
    let seen = findings.masked_view(request, Trust::Tenant).messages[0].text();
    assert_eq!(seen, "case <CUSTOM_1> a@b.co");
}

#[test]
fn every_fault_of_the_rules_is_reported() {
    let rule = |pattern: &str| CustomRule {
        name: "r".to_owned(),
        pattern: pattern.to_owned(),
        trust_min: Trust::Tenant,
    };
    let custom = [rule("("), rule("a*"), rule("(a{1000}){1000}")];
    let classes = [(FindingClass::NationalId, Trust::Tenant)];
    let faults = ScanRules::compile(&classes, &custom).unwrap_err();
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "the pattern of rule `r` is no regular expression: unclosed group",
            "the pattern of rule `r` matches the empty text",
            "the pattern of rule `r` is too large",
            "no detector finds NATIONAL_ID",
        ]
    );
}

#[test]
fn more_findings_than_the_bound_are_refused() {
    let list = |count: usize| -> String { (0..count).map(|at| format!("u{at}@b.co ")).collect() };
    let rules = &*RULES;
    assert!(rules.scan(&request(&list(FINDINGS_MAX))).is_ok());
    let refused = rules.scan(&request(&list(FINDINGS_MAX + 1)));
    assert!(
        matches!(refused, Err(Fault::BadRequest(fault)) if fault.code.as_deref() == Some("too_many_findings"))
    );
}

#[test]
fn values_in_json_are_restored_as_json() {
    let request = request("-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEAx1y2z3");
    let findings = RULES.scan(&request).unwrap();
    let mut unmasker = Unmasker::in_json(&findings);
    let restored = unmasker.push(r#"{"key": "<SECRET_1>"}"#) + &unmasker.finish();
    let value: serde_json::Value = serde_json::from_str(&restored).unwrap();
    assert_eq!(value["key"], request.messages[0].text());
}

#[test]
fn escaped_placeholders_are_restored_only_in_json() {
    let findings = RULES.scan(&request("a@b.co")).unwrap();
    let restored = |mut unmasker: Unmasker, text: &str| unmasker.push(text) + &unmasker.finish();
    for (text, wanted) in [
        (r#""\u003cEMAIL_1\u003E""#, r#""a@b.co""#),
        (r#""<EMAIL_1\u003e\u003CEMAIL_1>""#, r#""a@b.coa@b.co""#),
        // Escaped is the backslash, not the bracket.
        (r#""\\u003cEMAIL_1>""#, r#""\\u003cEMAIL_1>""#),
        (r#""\\\u003cEMAIL_1>""#, r#""\\a@b.co""#),
        (r#""\u003cEMAIL_2>\n""#, r#""\u003cEMAIL_2>\n""#),
        (r#""\u003"#, r#""\u003"#),
    ] {
        assert_eq!(restored(Unmasker::in_json(&findings), text), wanted);
    }
    let escaped = r"\u003cEMAIL_1>";
    assert_eq!(restored(Unmasker::new(&findings), escaped), escaped);
}

#[test]
fn debug_shows_no_value() {
    let findings = RULES.scan(&request("a@b.co")).unwrap();
    assert!(!format!("{:?} {findings:?}", Unmasker::new(&findings)).contains("a@b"));
}

proptest! {
    /// Whatever the text, and wherever the reply is cut.
    #[test]
    fn unmasking_undoes_masking(
        parts in prop::collection::vec(prop::sample::select(vec![
            "ann@b.co", "bob.ann@b.co", "4111 1111 1111 1111", "DE89370400440532013000", "+49 30 901820",
            "<EMAIL_1>", "<EMAIL_", "<", ">", "_1>", " ", "\n", "é", "EMAIL", "b.co", "text",
        ]), 0..24),
        cuts in prop::collection::vec(1_usize..7, 0..64),
    ) {
        let text = parts.concat();
        let rules = &*RULES;
        let request = request(&text);
        let findings = rules.scan(&request).unwrap();
        let masked = findings.masked_view(request, Trust::Public).messages[0].text();
        let longest = findings.iter().map(|it| it.placeholder.len()).max().unwrap_or(0);
        let restored = in_pieces(Unmasker::new(&findings), &masked, &cuts, longest.max(1));
        prop_assert_eq!(restored, text);
    }

    /// As above, in the arguments of a tool call, whose brackets may be escaped.
    #[test]
    fn unmasking_undoes_masking_in_json(
        parts in prop::collection::vec(prop::sample::select(vec![
            "ann@b.co", "4111 1111 1111 1111", "<EMAIL_1>", "<EMAIL_", "<", ">", "_1>", " ", "\n",
            "\\", "\\u003c", "\"", "u003cEMAIL_2>", "é", "EMAIL", "text",
        ]), 0..24),
        spellings in prop::collection::vec(0_usize..3, 1..16),
        cuts in prop::collection::vec(1_usize..7, 0..64),
    ) {
        let text = parts.concat();
        let request = request(&text);
        let findings = RULES.scan(&request).unwrap();
        let masked = findings.masked_view(request, Trust::Public).messages[0].text();
        let mut spelling = spellings.iter().cycle();
        let written: String = serde_json::Value::from(masked)
            .to_string()
            .chars()
            .map(|letter| match (letter, spelling.next()) {
                ('<', Some(1)) => r"\u003c".to_owned(),
                ('<', Some(2)) => r"\u003C".to_owned(),
                ('>', Some(1)) => r"\u003e".to_owned(),
                ('>', Some(2)) => r"\u003E".to_owned(),
                _ => letter.to_string(),
            })
            .collect();
        // Both brackets take five bytes more when escaped.
        let longest = findings.iter().map(|it| it.placeholder.len() + 10).max().unwrap_or(1);
        let restored = in_pieces(Unmasker::in_json(&findings), &written, &cuts, longest);
        prop_assert_eq!(serde_json::from_str::<String>(&restored).unwrap(), text);
    }
}

/// What `unmasker` makes of `text` in pieces of `cuts` bytes, while it holds back less than `held_max`.
fn in_pieces(mut unmasker: Unmasker, text: &str, cuts: &[usize], held_max: usize) -> String {
    let (mut restored, mut rest) = (String::new(), text);
    for cut in cuts {
        let end = rest.floor_char_boundary((*cut).min(rest.len()));
        restored += &unmasker.push(&rest[..end]);
        rest = &rest[end..];
        assert!(unmasker.held_bytes() < held_max);
    }
    restored += &unmasker.push(rest);
    restored + &unmasker.finish()
}

/// `ann@mail\.example` went to a public upstream as written.
#[test]
fn a_value_between_a_patterns_escapes_keeps_the_request_from_the_less_trusted() {
    let schema = |pattern: &str| {
        let schema = serde_json::json!({ "properties": { "to": { "pattern": pattern } } });
        OutputFormat::JsonSchema(schema)
    };
    let escaped = r"to ann@mail\.example( now)?";
    let cases = [
        (OutputFormat::Regex(escaped.to_owned()), true),
        (
            OutputFormat::Regex(r"ann\x40mail[.]example".to_owned()),
            true,
        ),
        (
            OutputFormat::Grammar(r#"root ::= "ann\x40mail.example""#.to_owned()),
            true,
        ),
        (schema(escaped), true),
        // Written out it is masked, and a pattern of addresses is nobody's address.
        (OutputFormat::Regex("ann@mail.example".to_owned()), false),
        (schema(r"^[\w.]+@[\w]+\.[a-z]{2,}$"), false),
    ];
    for (format, is_kept) in cases {
        let mut request = request("hello");
        request.format = format.clone();
        let wanted = is_kept.then_some(Trust::Tenant);
        let findings = RULES.scan(&request).unwrap();
        assert_eq!(findings.trust_least(), wanted, "{format:?}");
    }
}

/// Texts that detectors find, some drawn from the patterns themselves.
fn likely_found() -> impl Strategy<Value = String> {
    let parts = DETECTORS.map(|detector| {
        let pattern = detector.pattern.replace(r"\x22", "\"");
        prop::string::string_regex(&pattern).unwrap().boxed()
    });
    let part = prop::strategy::Union::new(parts).boxed();
    let prose = || prop::string::string_regex("[a-z ,.:@=+-]{0,12}").unwrap();
    (prose(), part, prose()).prop_map(|(a, b, c)| format!("{a}{b}{c}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_quick_look_passes_over_nothing_that_is_found(text in likely_found()) {
        let mut slow = RULES.clone();
        slow.has_detectors_only = false;
        let slow = slow.scan(&request(&text)).unwrap();
        let quick = RULES.scan(&request(&text)).unwrap();
        prop_assert_eq!(quick.iter().count(), slow.iter().count());
    }
}

#[test]
fn most_prose_does_not_pass_the_quick_look() {
    let prose = "The harbour lies where the river meets the sea, pier 7 in the north.\n";
    assert!(!may_find(prose));
    assert!(may_find(&format!("{prose}{prose}")), "two digits");
    // What an operator asks for may look like anything.
    let rule = CustomRule {
        name: "harbour".into(),
        pattern: "harbour".into(),
        trust_min: Trust::Tenant,
    };
    let rules = ScanRules::compile(&[], &[rule]).unwrap();
    assert_eq!(rules.scan(&request(prose)).unwrap().iter().count(), 1);
}
