use super::values::{COUNT_MAX, NUMBER_MAX};
use super::*;

fn read_it(schema: &Value) -> Result<Value, BadRequest> {
    read(schema, PLACE, &mut Spent::default())
}

/// Where `schema` is refused, from its root on, and why.
fn refused(schema: &Value) -> (String, String) {
    let reason = read_it(schema).expect_err(&schema.to_string());
    let param = reason.param.unwrap();
    let place = param.strip_prefix(PLACE).unwrap();
    (place.to_owned(), reason.message)
}

#[test]
fn keywords_that_replies_could_not_be_held_to_are_refused_at_their_place() {
    let cases = [
        (json!({"not": {"type": "null"}}), ".not"),
        (json!({"if": {}, "then": {}}), ".if"),
        (
            json!({"properties": {"a": {"items": {"contains": {}}}}}),
            ".properties.a.items.contains",
        ),
        (
            json!({"anyOf": [{}, {"uniqueItems": true}]}),
            ".anyOf[1].uniqueItems",
        ),
        (
            json!({"$defs": {"a": {"dependentRequired": {}}}}),
            ".$defs.a.dependentRequired",
        ),
        (json!({"propertyNames": {}}), ".propertyNames"),
        (
            json!({"unevaluatedProperties": false}),
            ".unevaluatedProperties",
        ),
        // Drafts that do not know a word have it ignored, and so would the compiler.
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "unevaluatedItems": false}),
            ".unevaluatedItems",
        ),
        (json!({"nullable": true}), ".nullable"),
        (json!({"requierd": ["a"]}), ".requierd"),
        // The compiler's own options, which are not the caller's.
        (
            json!({"properties": {"a": {"x_guidance": {}}}}),
            ".properties.a.x_guidance",
        ),
        (
            json!({"properties": {"a": {"$id": "b"}}}),
            ".properties.a.$id",
        ),
        (json!({"$dynamicRef": "#a"}), ".$dynamicRef"),
    ];
    for (schema, place) in cases {
        let (at, said) = refused(&schema);
        assert_eq!(at, place);
        let word = place.rsplit('.').next().unwrap();
        assert!(said.contains(&format!("`{word}`")), "{said}");
    }
}

#[test]
fn values_that_do_not_fit_their_keyword_are_refused_at_their_place() {
    let cases = [
        (json!(3), "", "a schema"),
        (json!(false), "", "nothing is valid"),
        (json!({"type": "text"}), ".type", "one of null"),
        (json!({"type": []}), ".type", "one of null"),
        (json!({"properties": []}), ".properties", "an object"),
        (json!({"properties": {"a": 1}}), ".properties.a", "a schema"),
        (json!({"anyOf": []}), ".anyOf", "not empty"),
        (json!({"enum": []}), ".enum", "not empty"),
        (json!({"required": [1]}), ".required", "an array of strings"),
        (json!({"minLength": -1}), ".minLength", "0 or more"),
        (json!({"maxItems": 1.5}), ".maxItems", "0 or more"),
        (json!({"minimum": "1"}), ".minimum", "a number"),
        (json!({"minimum": 1e19}), ".minimum", "told apart"),
        (
            json!({"exclusiveMaximum": -1e16}),
            ".exclusiveMaximum",
            "told apart",
        ),
        (
            json!({"const": 9_007_199_254_740_993_u64}),
            ".const",
            "9007199254740991",
        ),
        (
            json!({"enum": [1, {"a": [1e300]}]}),
            ".enum[1].a[0]",
            "9007199254740991",
        ),
        (json!({"const": "a\u{1}"}), ".const", "control characters"),
        (json!({"pattern": 3}), ".pattern", "a string"),
        (json!({"format": "phone"}), ".format", "date-time"),
        (json!({"multipleOf": 0}), ".multipleOf", "above 0"),
        (json!({"multipleOf": 0.001}), ".multipleOf", "`multipleOf`"),
        (
            json!({"multipleOf": 3, "allOf": [{}]}),
            ".multipleOf",
            "`multipleOf`",
        ),
        (
            json!({"anyOf": [{"multipleOf": 1000}, {"multipleOf": 0.5}]}),
            ".anyOf[0].multipleOf",
            "`multipleOf`",
        ),
        (json!({"pattern": "(?=a)"}), ".pattern", "(?:"),
        (
            json!({"patternProperties": {"(a": {}}}),
            ".patternProperties.(a",
            "never closed",
        ),
        (
            json!({"patternProperties": {"(a)": {}, "(?:a)": {}}}),
            ".patternProperties.(?:a)",
            "says the same",
        ),
        (
            json!({"$schema": "https://example.com/draft"}),
            ".$schema",
            "2020-12",
        ),
        (json!({"minProperties": 2, "required": ["a", "a"]}), "", ""),
        (
            json!({"minProperties": 3, "required": ["a", "a"]}),
            ".minProperties",
            "`required`",
        ),
        (
            json!({"$ref": "https://a.b/c"}),
            ".$ref",
            "in the schema itself",
        ),
        (json!({"$ref": "#name"}), ".$ref", "in the schema itself"),
        (
            json!({"$ref": "#/$defs/a~1b"}),
            ".$ref",
            "in the schema itself",
        ),
        (json!({"$ref": "#/$defs/a"}), ".$ref", "no schema"),
        (
            json!({"$ref": "#/default", "default": {"not": {}}}),
            ".$ref",
            "no schema",
        ),
        (
            json!({"$ref": "#/$defs", "$defs": {"not": {}}}),
            ".$ref",
            "no schema",
        ),
        (
            json!({"$ref": "#/const/a", "const": {"a": {"not": {}}}}),
            ".$ref",
            "no schema",
        ),
        (
            json!({"$ref": "#/properties/a/enum/0", "properties": {"a": {"enum": [{}]}}}),
            ".$ref",
            "no schema",
        ),
    ];
    for (schema, place, words) in cases {
        if words.is_empty() {
            assert!(read_it(&schema).is_ok(), "{schema}");
            continue;
        }
        let (at, said) = refused(&schema);
        assert_eq!(at, place, "{schema}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn every_limit_is_named_when_it_is_passed() {
    let nested = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({"items": inner}));
    let wide = |count: usize| {
        let members: Map<_, _> = (1..count).map(|n| (format!("p{n}"), json!({}))).collect();
        json!({"properties": members})
    };
    let values = |count: usize| json!({"enum": (0..count).collect::<Vec<_>>()});
    let patterns = |count: usize| json!({"anyOf": vec![json!({"pattern": "a"}); count]});
    let named = |count: usize| {
        let members: Map<_, _> = (0..count).map(|n| (format!("^{n}"), json!({}))).collect();
        json!({"patternProperties": members})
    };
    let count = |most: u64| json!({"maxItems": most});
    let pattern = |bytes: usize| json!({"pattern": "a".repeat(bytes)});
    let text = |bytes: usize| json!({"title": "t".repeat(bytes - 12)});
    let formats = |count: usize| json!({"anyOf": vec![json!({"format": "date"}); count]});
    let within = |count: usize| json!({"const": vec![1; count - 1]});
    let counted = |count: usize| {
        let members: Map<_, _> = (0..count).map(|n| (format!("p{n}"), json!({}))).collect();
        json!({"properties": members, "minProperties": 1})
    };
    let cases: [(Value, Value, usize); 11] = [
        (formats(FORMATS_MAX), formats(FORMATS_MAX + 1), FORMATS_MAX),
        (
            within(VALUES_WITHIN_MAX),
            within(VALUES_WITHIN_MAX + 1),
            VALUES_WITHIN_MAX,
        ),
        (
            counted(COUNTED_MEMBERS_MAX),
            counted(COUNTED_MEMBERS_MAX + 1),
            COUNTED_MEMBERS_MAX,
        ),
        (nested(DEPTH_MAX), nested(DEPTH_MAX + 1), DEPTH_MAX),
        (wide(SCHEMAS_MAX), wide(SCHEMAS_MAX + 1), SCHEMAS_MAX),
        (values(VALUES_MAX), values(VALUES_MAX + 1), VALUES_MAX),
        (
            patterns(PATTERNS_MAX),
            patterns(PATTERNS_MAX + 1),
            PATTERNS_MAX,
        ),
        (
            named(NAME_PATTERNS_MAX),
            named(NAME_PATTERNS_MAX + 1),
            NAME_PATTERNS_MAX,
        ),
        (count(COUNT_MAX), count(COUNT_MAX + 1), COUNT_MAX as usize),
        (
            pattern(PATTERN_BYTES_MAX),
            pattern(PATTERN_BYTES_MAX + 1),
            PATTERN_BYTES_MAX,
        ),
        (
            text(TEXT_BYTES_MAX),
            text(TEXT_BYTES_MAX + 1),
            TEXT_BYTES_MAX,
        ),
    ];
    for (within, beyond, limit) in cases {
        assert!(read_it(&within).is_ok(), "{limit}: {:?}", read_it(&within));
        let (_, said) = refused(&beyond);
        assert!(said.contains(&limit.to_string()), "{said}");
    }
}

#[test]
fn what_describes_is_left_out_and_the_order_is_kept() {
    let schema = json!({"title": "T", "type": "object", "properties": {
        "z": {"description": "first", "type": "string", "minLength": 2.0},
        "a": {"default": {"not": {}}, "const": {"title": "kept"}},
    }, "x-guidance": {"lenient": true}, "nullable": false, "required": ["z"]});
    let expected = json!({"type": "object", "properties": {
        "z": {"type": "string", "minLength": 2},
        "a": {"const": {"title": "kept"}},
    }, "required": ["z"]});
    let read = read_it(&schema).unwrap();
    assert_eq!(read.to_string(), expected.to_string());
}

#[test]
fn bounds_that_do_not_fit_are_made_narrower() {
    let bounds = |schema: Value| {
        let read = read_it(&schema).unwrap();
        (read["minimum"].as_f64(), read["maximum"].as_f64())
    };
    let all = (Some(-NUMBER_MAX), Some(NUMBER_MAX));
    assert_eq!(bounds(json!({"type": "integer"})), all);
    assert_eq!(
        bounds(json!({"type": ["integer", "null"], "minimum": i64::MIN, "maximum": u64::MAX})),
        all
    );
    assert_eq!(bounds(json!({"type": "number"})), (None, None));
    assert_eq!(
        bounds(json!({"type": "integer", "minimum": 3})),
        (Some(3.0), all.1)
    );
    let (_, most) = bounds(json!({"maximum": 9_007_199_254_740_995_u64}));
    assert!(most.unwrap() < 9_007_199_254_740_996.0);
}

#[test]
fn long_names_are_cut_in_the_place_that_is_told() {
    let name = "ü".repeat(10_000);
    let mut schema = json!({"properties": {}});
    schema["properties"][&name] = json!({"not": {}});
    let (at, _) = refused(&schema);
    assert_eq!(
        at,
        format!(".properties.{}.not", "ü".repeat(NAME_CHARS_MAX))
    );
}
