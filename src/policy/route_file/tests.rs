use super::*;

const FRAME: &str = "default = 'c'\n[outcomes.c]\ncandidates = ['cloud']\n";

#[track_caller]
fn check(toml: &str, wanted: &[&str]) {
    let faults = RoutePolicy::parse("r.toml", toml).map(|_| ()).unwrap_err();
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(shown, wanted);
}

#[track_caller]
fn check_when(when: &str, wanted: &str) {
    let toml = format!("{FRAME}[[rules]]\nname = 'r'\nthen = 'c'\nwhen = {{ {when} }}");
    check(&toml, &[wanted]);
}

#[test]
fn the_policies_shipped_parse() {
    for toml in [DEFAULT_ROUTES, LOCAL_ONLY_ROUTES] {
        RoutePolicy::parse("shipped", toml).unwrap().warm();
        // As an operator's own, whose patterns are looked at before they are used.
        let copied = format!("{toml}\n");
        assert_eq!(RoutePolicy::parse("copied", &copied).map(|_| ()), Ok(()));
    }
}

#[test]
fn keys_name_rules_the_default_and_what_names_its_model() {
    let toml = format!("{FRAME}[[rules]]\nname = 'r'\nthen = 'c'\nwhen = {{ chars_max = 8 }}");
    let names = route_names(&toml).unwrap();
    assert_eq!(names, ["r", "default", "model-named"]);
    assert_eq!(route_names("default = "), None);
    // What is wrong with a rule is said elsewhere.
    let names = route_names("rules = [{ name = 3 }, { }, 'x']").unwrap();
    assert_eq!(names, ["default", "model-named"]);
}

#[test]
fn what_an_outcome_does_in_trouble_is_the_file_s_unless_it_says_so_itself() {
    use crate::trouble::{Rescue, Trouble, WhenOffline};
    let toml = "default = 'c'\nrescue = 'any'\n[outcomes.c]\ncandidates = ['cloud']\n\
                [outcomes.d]\ncandidates = ['local']\nrescue = 'off'\nwhen_offline = 'queue'\n";
    let policy = RoutePolicy::parse("r.toml", toml).unwrap();
    let of_file = Trouble {
        rescue: Rescue::Any,
        when_offline: WhenOffline::Local,
    };
    assert_eq!(policy.trouble, of_file);
    assert_eq!(policy.outcomes[0].trouble, of_file);
    assert_eq!(
        policy.outcomes[1].trouble,
        Trouble {
            rescue: Rescue::Off,
            when_offline: WhenOffline::Queue,
        }
    );
    for shipped in [DEFAULT_ROUTES, LOCAL_ONLY_ROUTES] {
        let policy = RoutePolicy::parse("shipped", shipped).unwrap();
        assert_eq!(policy.trouble, Trouble::default());
    }
    check(
        &format!("rescue = 'on'\nwhen_offline = 3\n{FRAME}"),
        &[
            "r.toml: rescue: must be `off`, `same-model` or `any`",
            "r.toml: when_offline: must be a string, not a whole number",
        ],
    );
}

#[test]
fn a_syntax_fault_names_its_line() {
    let faults = RoutePolicy::parse("r.toml", "a = 1\nb = [").unwrap_err();
    assert!(
        faults[0].to_string().starts_with("r.toml: line 2: "),
        "{faults:?}"
    );
}

#[test]
fn all_faults_are_reported_at_once_with_their_paths() {
    check(
        "defualt = 'x'\ndefault = 'x'\n[outcomes.c]\ncandidates = ['cloud', 'auto', 3]\ntimeout = 1\n\
         [[rules]]\nname = 'a b'\nwhen = { tokens_mni = 3, code = 'yes', tokens_max = -1 }\nthen = 'd'\n\
         [[rules]]\nwhen = {}\n\
         [[rules]]\nname = 'default'\nwhen = { matches = ['(', 'a'], keywords = [] }\nthen = 'c'",
        &[
            "r.toml: outcomes.c.candidates[2]: must be a string, not a whole number",
            "r.toml: outcomes.c.timeout: unknown key; known keys: candidates, hedge, fallback_on_refusal, rescue, when_offline, sealed",
            "r.toml: outcomes.c.candidates[1]: `auto` is no candidate; name `local`, `cloud`, a backend or a model",
            "r.toml: default: no outcome is called `x`; there are: c",
            "r.toml: rules[0].name: must be at most 64 letters, digits, `-` and `_`",
            "r.toml: rules[0].when.tokens_max: must be a whole number from 0 to 4294967295",
            "r.toml: rules[0].when.code: must be true or false, not a string",
            "r.toml: rules[0].when.tokens_mni: unknown key; did you mean `tokens_min`?",
            "r.toml: rules[0].then: no outcome is called `d`; there are: c",
            "r.toml: rules[1].when: an empty condition; leave the rule out, or say when",
            "r.toml: rules[1].name: missing",
            "r.toml: rules[1].then: missing",
            "r.toml: rules[2].when.keywords: must not be empty",
            "r.toml: rules[2].name: `default` is taken; every rule needs a name of its own",
            "r.toml: defualt: unknown key; did you mean `default`?",
            "r.toml: rules[2].when.matches[0]: no regular expression: unclosed group",
        ],
    );
}

#[test]
fn an_empty_file_says_what_is_missing() {
    check(
        "",
        &[
            "r.toml: outcomes: missing; write at least one, as [outcomes.local] with candidates = [\"local\"]",
            "r.toml: default: missing; name the outcome to take when no rule holds",
        ],
    );
}

#[test]
fn each_wrong_value_is_refused() {
    for (when, wanted) in [
        (
            "response_format = 'xml'",
            "r.toml: rules[0].when.response_format: must be `text`, `json_object`, `json_schema`, `regex`, `choice` or `grammar`",
        ),
        (
            "language = 'English'",
            "r.toml: rules[0].when.language: must be a language code in lower case, as `en` or `pt`",
        ),
        (
            "header = { X-A = 'b' }",
            "r.toml: rules[0].when.header.X-A: header names are written in lower case",
        ),
        (
            "header = { x-a = '[' }",
            "r.toml: rules[0].when.header.x-a: no regular expression: unclosed character class",
        ),
        ("team = ''", "r.toml: rules[0].when.team: must not be empty"),
        ("any = []", "r.toml: rules[0].when.any: must not be empty"),
        (
            "not = { x = 1 }",
            "r.toml: rules[0].when.not.x: unknown key; known keys: tokens_min, tokens_max, turns_min, turns_max, chars_min, chars_max, system_chars_min, system_chars_max, code, mathematics, tools, images, response_format, language, team, header, keywords, matches, system_matches, all, any, not",
        ),
        (
            "matches = '{nobody}'",
            "r.toml: rules[0].when.matches: no part is called `nobody`",
        ),
        (
            "matches = 'a{1000}{1000}'",
            "r.toml: rules[0].when.matches: the pattern is too large",
        ),
    ] {
        check_when(when, wanted);
    }
}

#[test]
fn conditions_nest_only_so_deep() {
    let deep = format!("{}code = true{}", "not = { ".repeat(12), " }".repeat(12));
    let path = format!("rules[0].when{}", ".not".repeat(9));
    check_when(
        &deep,
        &format!("r.toml: {path}: nested deeper than 8 levels"),
    );
}

#[test]
fn parts_stand_for_their_patterns() {
    let parts = Parts(vec![("a".to_owned(), "(?:x|y)".to_owned())]);
    for (pattern, filled) in [
        ("^{a}{2}$", "^(?:x|y){2}$"),
        (r"\p{a}{a}", r"\p{a}(?:x|y)"),
        ("{1,2}{A}{", "{1,2}{A}{"),
        ("{a", "{a"),
    ] {
        assert_eq!(parts.fill(pattern).as_deref(), Ok(filled));
    }
}

#[test]
fn candidates_that_nobody_is_are_found_against_the_roster() {
    let toml = "default = 'c'\n[outcomes.c]\ncandidates = ['cloud', 'local', 'nobody']";
    let policy = RoutePolicy::parse("r.toml", toml).unwrap();
    let faults = policy.check(&Roster::default());
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let wanted = "r.toml: outcomes.c.candidates[2]: no backend or model is called `nobody`";
    assert_eq!(shown, [wanted]);
}

#[test]
fn an_outcome_hedges_and_falls_back_on_refusals_only_where_it_says_so() {
    let manners = |keys: &str| {
        let policy = RoutePolicy::parse("r.toml", &format!("{FRAME}{keys}")).unwrap();
        policy.outcomes[0].manners
    };
    assert_eq!(manners(""), Manners::default());
    let both = Manners {
        hedges: true,
        falls_back_on_refusal: true,
    };
    assert_eq!(manners("hedge = true\nfallback_on_refusal = true"), both);
    check(
        &format!("{FRAME}hedge = 'yes'"),
        &["r.toml: outcomes.c.hedge: must be true or false, not a string"],
    );
}

#[test]
fn the_headers_that_rules_look_at_are_known() {
    let used = |rules: &str| {
        let policy = RoutePolicy::parse("r.toml", &format!("{FRAME}{rules}")).unwrap();
        policy.headers_used().to_vec()
    };
    assert!(used("").is_empty());
    let nested = "[[rules]]\nname = 'a'\nthen = 'c'\nwhen = { header = { x-tier = 'gold', x-b = '.' } }\n\
                  [[rules]]\nname = 'b'\nthen = 'c'\n\
                  when = { not = { any = [{ header = { x-a = '.', x-b = '.' } }, { code = true }] } }";
    assert_eq!(used(nested), ["x-a", "x-b", "x-tier"]);
}
