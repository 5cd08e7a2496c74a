//! The language as users see it: values, errors, mistakes and costs of expressions.
//!
//! Tables of expression and outcome, over one object with a schema (`self`) and one without
//! (`any`). Every expectation is what Kubernetes v1.36 answers.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use skiff_cel::{CompileError, DeclType, Env, PER_CALL_LIMIT, Type, Value};

fn schema() -> Json {
    json!({"type": "object", "required": ["int"], "properties": {
        "int": {"type": "integer"},
        "num": {"type": "number"},
        "text": {"type": "string", "maxLength": 25},
        "flag": {"type": "boolean"},
        "either": {"x-kubernetes-int-or-string": true},
        "dashed-name": {"type": "string"},
        "namespace": {"type": "string"},
        "time": {"type": "string", "format": "duration"},
        "at": {"type": "string", "format": "date-time"},
        "bytes": {"type": "string", "format": "byte"},
        "map": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "string"}},
        "list": {"type": "array", "maxItems": 20, "items": {"type": "string", "maxLength": 10}},
        "ints": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "parts": {"type": "array", "maxItems": 10, "items": {"type": "object", "properties": {
            "key": {"type": "string"}, "value": {"type": "integer"}}}},
    }})
}

fn object() -> Json {
    json!({
        "int": 7, "num": 2, "text": "hello", "flag": true, "either": "50%",
        "dashed-name": "d", "namespace": "ns", "time": "1h30m", "at": "2024-02-29T13:14:15.123Z",
        "bytes": "aGk=", "map": {"k": "v", "z": "w"}, "list": ["a", "bc", "def"],
        "ints": [3, 1, 2], "set": ["a", "b"],
        "parts": [{"key": "a", "value": 1}, {"key": "b", "value": 2}],
    })
}

struct Setting {
    env: Env,
    decl: Arc<DeclType>,
    object: Json,
    any: Json,
}

impl Setting {
    fn new() -> Setting {
        let decl = DeclType::from_schema(&schema(), false).expect("the schema declares an object");
        let decl = Arc::new(decl.named("selfType"));
        let env = Env::kubernetes().declare("self", decl.clone()).variable("any", Type::Dyn);
        let any = json!({"list": [1, 2], "text": "str", "num": 1.5, "nil": null, "map": {"a": 1}});
        Setting { env, decl, object: object(), any }
    }

    /// The value as JSON, the error, or the mistakes; and the cost.
    fn outcome(&self, expression: &str) -> (String, u64) {
        let program = match self.env.compile(expression) {
            Ok(program) => program,
            Err(CompileError::Issues(issues)) => return (issues.to_string(), 0),
            Err(CompileError::Constant(error)) => return (format!("constant: {error}"), 0),
        };
        let this = Value::declared(&self.object, &self.decl).expect("the object fits its schema");
        let variables = [("self", this), ("any", Value::from(&self.any))];
        let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
        let shown = match outcome.value {
            Ok(Value::Optional(None)) => "none".to_owned(),
            Ok(value) => {
                value.to_json().map_or_else(|| format!("{value:?}"), |json| json.to_string())
            }
            Err(error) => error.to_string(),
        };
        (shown, outcome.cost)
    }
}

fn check(cases: &[(&str, &str)]) {
    let setting = Setting::new();
    for (expression, expected) in cases {
        assert_eq!(setting.outcome(expression).0, *expected, "{expression}");
    }
}

#[test]
fn data_is_what_its_schema_says() {
    check(&[
        ("self.num == 2.0", "true"),
        ("type(self.num) == double && type(self.int) == int", "true"),
        ("self.time > duration('1h')", "true"),
        ("self.at.getFullYear()", "2024"),
        ("self.at.getHours('+05:30')", "18"),
        ("self.bytes == b'hi'", "true"),
        ("type(self.either) == string && self.either.contains('%')", "true"),
        ("self.dashed__dash__name + self.__namespace__", "\"dns\""),
        ("self.set == ['b', 'a']", "true"),
        ("self.set + ['b', 'c']", "[\"a\",\"b\",\"c\"]"),
        ("self.ints == [1, 2, 3]", "false"),
        ("has(self.text) && !has(self.map.none)", "true"),
        ("any.list == [1.0, 2.0]", "true"),
        ("any.num == 1.5 && any.nil == null", "true"),
    ]);
}

#[test]
fn errors_have_the_words_users_know() {
    check(&[
        ("self.map.none", "no such key: none"),
        ("self.list[9]", "index out of bounds: 9"),
        ("any.none.more", "no such key: none"),
        ("any.text + 1", "no such overload"),
        ("any.map + 1", "no such overload: _+_"),
        ("any.num.size()", "no such overload: size"),
        ("int(any.map)", "no such overload: int(map)"),
        ("any.num.all(e, true)", "got 'types.Double', expected iterable type"),
        ("any.list['a']", "unsupported index type 'string' in list"),
        ("1 / (self.int - 7)", "division by zero"),
        ("self.int % 0", "modulus by zero"),
        ("9223372036854775807 + self.int", "integer overflow"),
        ("uint(self.int) - 8u", "unsigned integer overflow"),
        ("int(any.text)", "type conversion error from 'string' to 'int'"),
        ("int('x')", "constant: type conversion error from 'string' to 'int'"),
        ("optional.none().value()", "optional.none() dereference"),
        ("[].max()", "max called on empty list"),
        ("{'a': 1}.transformMapEntry(k, v, {'b': v}).map(k, k)[3]", "index out of bounds: 3"),
        ("[1, 2].transformMapEntry(i, v, {'a': v})", "insert failed: key a already exists"),
        ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "timestamp overflow"),
        ("duration('2562047h') + duration('1000h')", "integer overflow"),
    ]);
}

#[test]
fn a_field_that_is_null_is_not_there() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "nullable": true},
        "map": {"type": "object", "additionalProperties": {"type": "string", "nullable": true}},
    }});
    let decl = Arc::new(DeclType::from_schema(&schema, false).unwrap().named("self"));
    let object = json!({"a": null, "map": {"k": null}});
    let cases = [("has(self.a)", "Ok(Bool(false))"), ("dyn(self.map.k) == null", "Ok(Bool(true))")];
    for (expression, expected) in cases {
        let program = Env::kubernetes().declare("self", decl.clone()).compile(expression);
        let this = Value::declared(&object, &decl).unwrap();
        let value = program.map(|program| program.evaluate(&[("self", this)], 100).value);
        assert_eq!(
            value.map(|value| format!("{value:?}")),
            Ok(expected.to_owned()),
            "{expression}"
        );
    }
}

#[test]
fn logic_passes_over_errors_the_other_side_decides() {
    check(&[
        ("any.none || true", "true"),
        ("true || any.none", "true"),
        ("any.none && false", "false"),
        ("any.none && true", "no such key: none"),
        ("self.list.exists(e, int(e) > 0 || e == 'bc')", "true"),
        ("self.list.all(e, int(e) > 0 && e != 'bc')", "false"),
        ("self.list.all(e, int(e) > 0)", "type conversion error from 'string' to 'int'"),
    ]);
}

#[test]
fn macros_loop_over_lists_and_maps() {
    check(&[
        ("self.list.map(e, e + '!')", "[\"a!\",\"bc!\",\"def!\"]"),
        ("self.list.map(e, e.size() > 1, e)", "[\"bc\",\"def\"]"),
        ("self.parts.filter(p, p.value > 1).map(p, p.key)", "[\"b\"]"),
        ("self.map.exists_one(k, k == 'z')", "true"),
        ("self.list.exists(i, e, i == 1 && e == 'bc')", "true"),
        ("self.list.transformList(i, e, i > 0, e)", "[\"bc\",\"def\"]"),
        ("self.map.transformMap(k, v, v + k)", "{\"k\":\"vk\",\"z\":\"wz\"}"),
        ("self.map.transformMapEntry(k, v, {v: k})", "{\"v\":\"k\",\"w\":\"z\"}"),
        ("self.parts.sortBy(p, -p.value).map(p, p.key)", "[\"b\",\"a\"]"),
        ("self.?text.optMap(t, t.size()).orValue(0)", "5"),
        ("any.?none.?more", "none"),
        ("any.list[?7].orValue(-1)", "-1"),
        ("[?self.?text, ?self.map.?none]", "[\"hello\"]"),
        ("{?'a': self.?text, ?'b': self.map.?none}", "{\"a\":\"hello\"}"),
    ]);
}

#[test]
fn libraries_answer() {
    check(&[
        ("quantity('1.5Gi').isGreaterThan(quantity('1Gi'))", "true"),
        ("quantity('1k').add(quantity('1')).asInteger()", "1001"),
        ("quantity('1500m').isInteger()", "false"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
        ("string(cidr('10.1.2.3/8').masked())", "\"10.0.0.0/8\""),
        ("ip('::ffff:1.2.3.4')", "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
        ("semver('1.2.3-a').isLessThan(semver('1.2.3'))", "true"),
        ("semver('v1', true).patch()", "0"),
        ("url('https://[::1]:80/p').getHostname()", "\"::1\""),
        ("url('https://a/p?k=1&k=2').getQuery()", "{\"k\":[\"1\",\"2\"]}"),
        ("format.dns1123Label().validate('a')", "none"),
        ("format.uuid().validate('a').value()", "[\"does not match the UUID format\"]"),
        ("self.text.find('l+')", "\"ll\""),
        ("self.text.findAll('[el]', 2)", "[\"e\",\"l\"]"),
        (
            "'%s %d %.2f %x'.format([['a', 1.5], 2, 1234.5, 255])",
            "\"[\\\"a\\\", 1.500000] 2 1,234.50 ff\"",
        ),
        ("[[1], [2]].flatten()", "[1,2]"),
        ("lists.range(3).reverse()", "[2,1,0]"),
        ("[3, 1, 2].sort().slice(0, 2)", "[1,2]"),
        ("self.ints.sum() + self.ints.min()", "7"),
        ("self.ints.indexOf(2)", "2"),
        ("sets.equivalent([1, 2], [2, 1, 1])", "true"),
        ("jsonpatch.escapeKey('a/b~')", "\"a~1b~0\""),
        ("'a,b,c'.split(',', 2)", "[\"a\",\"b,c\"]"),
        ("'tacocat'.lastIndexOf('a', 3)", "1"),
    ]);
}

#[test]
fn mistakes_are_pointed_out() {
    check(&[
        (
            "self ==",
            "ERROR: <input>:1:8: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', \
             '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\
             \n | self ==\n | .......^",
        ),
        ("(1", "ERROR: <input>:1:3: Syntax error: missing ')' at '<EOF>'\n | (1\n | ..^"),
        (
            "1 2",
            "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^",
        ),
        (
            "1.2.3.4",
            "ERROR: <input>:1:4: Syntax error: mismatched input '.3' expecting <EOF>\n | 1.2.3.4\n | ...^",
        ),
        (
            "a.",
            "ERROR: <input>:1:3: Syntax error: no viable alternative at input '.'\n | a.\n | ..^",
        ),
        ("as", "ERROR: <input>:1:1: reserved identifier: as\n | as\n | ^"),
        ("self.nope", "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^"),
        (
            "self.text.nope",
            "ERROR: <input>:1:10: type 'string' does not support field selection\n \
             | self.text.nope\n | .........^",
        ),
        (
            "nope",
            "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope\n | ^",
        ),
        (
            "self.int + self.num",
            "ERROR: <input>:1:10: found no matching overload for '_+_' applied to '(int, double)'\n \
             | self.int + self.num\n | .........^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "self.list.all(1, true)",
            "ERROR: <input>:1:15: argument must be a simple name\n \
             | self.list.all(1, true)\n | ..............^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
        (
            "self.parts.map(p, p.nope) == self.parts",
            "ERROR: <input>:1:20: undefined field 'nope'\n | self.parts.map(p, p.nope) == self.parts\n \
             | ...................^",
        ),
    ]);
}

#[test]
fn evaluations_cost_what_they_cost_upstream() {
    let setting = Setting::new();
    let cases = [
        ("self.int == 7", 3),
        ("self.flag ? self.int : 0", 3),
        ("has(self.text)", 1),
        ("self.list.all(e, e.startsWith('a'))", 15),
        ("self.list.exists_one(e, e == 'a')", 12),
        ("self.int in [1, 2, 7]", 2),
        ("[self.int]", 12),
        ("{'a': self.int}", 32),
        ("self.text.matches('^h.*o$')", 4),
        ("self.text + self.text", 5),
        ("any.?none.orValue(1)", 1),
        ("self.list[0]", 3),
        ("[3, 1, 2].sort()", 29),
        ("quantity('1500m').isInteger()", 2),
    ];
    for (expression, expected) in cases {
        let (value, cost) = setting.outcome(expression);
        assert_eq!(cost, expected, "{expression} = {value}");
    }
}

#[test]
fn estimates_follow_from_declared_sizes() {
    let setting = Setting::new();
    let cases = [
        ("self.int == 7", (2, 2)),
        ("self.text == 'hello'", (3, 3)),
        ("self.text.matches('^h.*o$')", (4, 24)),
        ("self.list.all(e, e.startsWith('a'))", (3, 103)),
        ("self.list.all(e, self.list.exists(f, f == e))", (3, 4123)),
        ("self.map.all(k, self.map[k] != '')", (3, 38)),
        ("self.parts.filter(p, p.value > 1).size() == 1", (15, 175)),
        ("type(self.either) == int", (4, 4)),
    ];
    for (expression, (min, max)) in cases {
        let estimate = setting.env.compile(expression).expect("it compiles").estimate();
        assert_eq!((estimate.min, estimate.max), (min, max), "{expression}");
    }
}

#[test]
fn an_evaluation_ends_when_it_costs_too_much() {
    let setting = Setting::new();
    let program =
        setting.env.compile("self.list.all(a, self.list.all(b, a + b != '') || true)").unwrap();
    let this = Value::declared(&setting.object, &setting.decl).unwrap();
    let outcome = program.evaluate(&[("self", this)], 40);
    let error = outcome.value.expect_err("the limit is low").to_string();
    assert_eq!(error, "operation cancelled: actual cost limit exceeded");
}

#[test]
fn no_text_is_too_deep_or_too_long() {
    let limit = "ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
    let nested = ["(", "[", "!", "-(", "f(", "{1:", "a.b(", "a["];
    for part in nested {
        let text = part.repeat(5000);
        let error = Env::kubernetes().compile(&text).expect_err("it never ends").to_string();
        assert!(error.starts_with("ERROR: "), "{part}: {error}");
    }
    check(&[
        (&format!("1{}", "+1".repeat(300)), limit),
        (&format!("any{}", ".a".repeat(300)), limit),
    ]);
    let chain = format!("true{}", " && true".repeat(2000));
    check(&[(&chain, "true")]);
    let long = "1".repeat(100_001);
    check(&[(
        &long,
        "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100001, limit 100000",
    )]);
    let repeated = format!("optional.of(1){}", ".optMap(x, x)".repeat(60));
    let error = Env::kubernetes().compile(&repeated).expect_err("each step doubles it").to_string();
    assert!(error.contains("nodes"), "{error}");
}

#[test]
fn any_text_is_answered() {
    // Pieces of the language in every order a simple generator comes upon.
    let pieces = [
        "self", ".", "int", "(", ")", "[", "]", "{", "}", "?", ":", ",", "'a'", "1", "-", "!",
        "==", "&&", "in", "map", "(e,", "has(", "é", "\\", "\"", "'''", "b'\\x", "0x", "1e", "`a`",
        "\n", "//", "optMap", "all", "&", "=", "|", "null", ".?", "[?", "Foo{",
    ];
    let setting = Setting::new();
    let mut state: u64 = 1;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        setting.outcome(&text);
    }
}
