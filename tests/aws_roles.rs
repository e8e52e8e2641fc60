//! Which role a user gets, how the session is named, and what of the configuration is refused.

mod support;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::aws_stack::{AwsStack, Body, DEFAULT_ROLE, http_client, user, user_with};
use tower_identity::{
    AuthError, AuthErrorKind, AwsSts, BuildError, RoleMapping, Subject, strategy::AwsStsBuilder,
};

fn arn(name: &str) -> String {
    format!("arn:aws:iam::123456789012:role/{name}")
}

fn claim(value: &str, role: &str) -> RoleMapping {
    RoleMapping::claim(value, arn(role))
}

fn matcher(expression: &str, role: &str) -> RoleMapping {
    RoleMapping::matcher(expression, arn(role))
}

fn builder() -> AwsStsBuilder {
    AwsSts::builder("eu-west-1", http_client::<Body>())
}

fn refusal(builder: AwsStsBuilder) -> BuildError {
    let error = builder.build().unwrap_err();
    assert_eq!(error.invalid_settings().len(), 1, "{error}");
    error
}

/// The role that a user with these claims gets, by its name.
async fn role(
    aws: &AwsStack,
    mappings: &[RoleMapping],
    claims: Value,
) -> Result<String, AuthError> {
    let builder = AwsSts::builder("eu-west-1", http_client::<Body>())
        .sts_endpoint(aws.sts.url())
        .clock(aws.clock.clone());
    let builder = mappings
        .iter()
        .cloned()
        .fold(builder, AwsStsBuilder::role_mapping);
    let session = aws
        .call(&builder.build().unwrap(), &user_with("alice", "t", claims))
        .await?;
    Ok(session.role.strip_prefix(&arn("")).unwrap().to_owned())
}

#[tokio::test]
async fn the_claims_choose_the_role() {
    let aws = AwsStack::start().await;
    let by_claim = [claim("admins", "Admin"), claim("devs", "Dev")];
    let by_priority = [
        claim("a", "Last"),
        claim("a", "Second").priority(2),
        claim("a", "First").priority(-1),
        claim("b", "Third").priority(3),
        claim("b", "ThirdToo").priority(3),
        claim("c", "Unnumbered"),
        claim("c", "UnnumberedToo"),
    ];
    let service = [matcher(
        r#"claims["sub"].startsWith("svc-") && !("act" in claims)"#,
        "Service",
    )];
    let failing = [
        matcher(r#"claims["act"] == "x""#, "Act").priority(1),
        claim("a", "A"),
    ];
    let table: [(&[RoleMapping], Value, Option<&str>); 31] = [
        (&by_claim, json!({ "groups": ["devs"] }), Some("Dev")),
        (
            &by_claim,
            json!({ "groups": ["x", 1, null, "devs"] }),
            Some("Dev"),
        ),
        (
            &by_claim,
            json!({ "groups": ["devs", "admins"] }),
            Some("Admin"),
        ),
        (&by_claim, json!({ "groups": "admins" }), Some("Admin")),
        (&by_claim, json!({ "groups": "admins devs" }), None),
        (&by_claim, json!({ "groups": ["admin"] }), None),
        (&by_claim, json!({ "groups": ["Admins"] }), None),
        (&by_claim, json!({ "groups": [["admins"]] }), None),
        (&by_claim, json!({ "groups": { "admins": true } }), None),
        (&by_claim, json!({ "groups": null }), None),
        (&by_claim, json!({ "roles": ["admins"] }), None),
        (&by_claim, json!({}), None),
        (&by_priority, json!({ "groups": ["a"] }), Some("First")),
        (&by_priority, json!({ "groups": ["b"] }), Some("Third")),
        (&by_priority, json!({ "groups": ["c", "b"] }), Some("Third")),
        (&by_priority, json!({ "groups": ["c"] }), Some("Unnumbered")),
        (&service, json!({ "sub": "svc-1" }), Some("Service")),
        (&service, json!({ "sub": "svc-1", "act": {} }), None),
        (&service, json!({ "sub": "user" }), None),
        (&service, json!({ "sub": 1 }), None),
        (&service, json!({}), None),
        (&failing, json!({ "groups": ["a"] }), Some("A")),
        (
            &failing,
            json!({ "act": "x", "groups": ["a"] }),
            Some("Act"),
        ),
        (
            &[matcher("claims.level >= 3", "Level")],
            json!({ "level": 3 }),
            Some("Level"),
        ),
        (
            &[matcher("claims.level == 3", "Level")],
            json!({ "level": 3 }),
            Some("Level"),
        ),
        (
            &[matcher("claims.level > 2.5", "Level")],
            json!({ "level": 2.75 }),
            Some("Level"),
        ),
        (
            &[matcher("claims.level > 2u", "Level")],
            json!({ "level": u64::MAX }),
            Some("Level"),
        ),
        (
            &[matcher("claims.a.b[1] == 'x'", "Deep")],
            json!({ "a": { "b": [0, "x"] } }),
            Some("Deep"),
        ),
        (
            &[matcher(
                "claims.groups.exists(g, g.matches('^team-[0-9]+$'))",
                "Team",
            )],
            json!({ "groups": ["team-7"] }),
            Some("Team"),
        ),
        (
            &[matcher(
                "size(claims.groups.filter(g, g.endsWith('s'))) == 2",
                "Two",
            )],
            json!({ "groups": ["as", "b", "cs"] }),
            Some("Two"),
        ),
        (
            &[matcher("claims.name", "Name")],
            json!({ "name": "not an answer" }),
            None,
        ),
    ];
    for (mappings, claims, expected) in table {
        let chosen = role(&aws, mappings, claims.clone()).await;
        match expected {
            Some(expected) => assert_eq!(chosen.unwrap(), expected, "{mappings:?} {claims}"),
            None => assert_eq!(
                chosen.unwrap_err().kind(),
                AuthErrorKind::InsufficientScope,
                "{claims}"
            ),
        }
    }
}

#[tokio::test]
async fn f49_a_user_without_a_role_is_forbidden_and_not_asked_to_log_in() {
    let aws = AwsStack::start().await;
    for mapping in [claim("admins", "Admin"), matcher("claims.x == 1", "Admin")] {
        for claims in [json!({}), json!({ "groups": ["devs"] })] {
            let error = role(&aws, std::slice::from_ref(&mapping), claims)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
            let response = error.to_response::<Body>();
            assert_eq!(response.status(), http::StatusCode::FORBIDDEN);
            assert!(error.interaction().is_none(), "{error:?}");
        }
    }
    assert_eq!((aws.sts.calls(), aws.arrived().len()), (0, 0));
}

#[tokio::test]
async fn f50_an_identity_without_claims_satisfies_no_matcher_and_gets_no_fallback_role() {
    let aws = AwsStack::start().await;
    let no_claims = user("alice", "t");
    let mut calls = 0;
    for mapping in [
        matcher(r#"!("act" in claims)"#, "Service"),
        matcher("!has(claims.act)", "Service"),
        matcher("claims == {}", "Service"),
        matcher("claims.size() == 0", "Service"),
        matcher("true", "Service"),
        claim("admins", "Admin"),
    ] {
        let builder = || aws.builder().role_mapping(mapping.clone());
        let error = aws
            .call(&builder().build().unwrap(), &no_claims)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);

        let allowed = builder().fallback_after_failed_matcher().build().unwrap();
        let session = aws.call(&allowed, &user("alice", "other")).await.unwrap();
        assert_eq!(session.role, DEFAULT_ROLE, "{mapping:?}");
        calls += 1;
        assert_eq!(aws.sts.calls(), calls, "{mapping:?}");
    }
    // Where no claim is looked at, none is needed.
    let session = aws.call(&aws.strategy(), &no_claims).await.unwrap();
    assert_eq!(session.role, DEFAULT_ROLE);
}

#[tokio::test]
async fn the_role_claim_can_be_another() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .role_claim("https://example.com/roles")
        .role_mapping(claim("admins", "Admin"))
        .build()
        .unwrap();
    let alice = user_with(
        "alice",
        "t",
        json!({ "https://example.com/roles": "admins" }),
    );
    assert_eq!(
        aws.call(&strategy, &alice).await.unwrap().role,
        arn("Admin")
    );
    let bob = user_with("bob", "t", json!({ "groups": "admins" }));
    assert_eq!(aws.call(&strategy, &bob).await.unwrap().role, DEFAULT_ROLE);
}

#[tokio::test]
async fn the_fallback_role_applies_after_a_failed_matcher_only_where_that_is_allowed() {
    let aws = AwsStack::start().await;
    let alice = user_with("alice", "t", json!({ "sub": "alice" }));
    let builder = || {
        aws.builder()
            .role_mapping(matcher(r#"claims["act"] == "x""#, "Act"))
    };
    let error = aws
        .call(&builder().build().unwrap(), &alice)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
    assert_eq!(aws.sts.calls(), 0);

    let allowed = builder().fallback_after_failed_matcher().build().unwrap();
    assert_eq!(aws.call(&allowed, &alice).await.unwrap().role, DEFAULT_ROLE);
    let answered = aws
        .builder()
        .role_mapping(matcher(r#""act" in claims"#, "Act"))
        .build()
        .unwrap();
    assert_eq!(
        aws.call(&answered, &alice).await.unwrap().role,
        DEFAULT_ROLE
    );
}

#[tokio::test]
async fn f27_a_claim_is_a_value_and_never_part_of_an_expression() {
    let aws = AwsStack::start().await;
    let hostile = [
        r#"x" || true || "x"#,
        r#"x" in claims["groups"] || "a" == "a"#,
        "') || true || ('",
        r"\",
        "\"",
        "'",
        "${jndi}",
        "\u{0}",
        "true",
        "1 == 1",
        "claims",
        "admins\n",
        "admins\u{200b}",
    ];
    let mappings = [
        claim("admins", "Admin"),
        matcher(r#""admins" in claims["groups"]"#, "Admin"),
        matcher(r#"claims["groups"].exists(g, g == "admins")"#, "Admin"),
    ];
    for text in hostile {
        for claims in [
            json!({ "groups": [text] }),
            json!({ "groups": [], text: "admins" }),
        ] {
            let error = role(&aws, &mappings, claims).await.unwrap_err();
            assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
            assert!(
                !error.to_string().contains(text) || text.len() < 7,
                "{error}"
            );
        }
        // A configured value is not an expression either.
        let chosen = role(&aws, &[claim(text, "Odd")], json!({ "groups": [text] })).await;
        assert_eq!(chosen.unwrap(), "Odd");
    }
}

#[test]
fn an_expression_that_cannot_be_bounded_is_refused() {
    let long = |text: &str| format!("true || {}", text.repeat(2000));
    let padded = |length| format!("{:length$}", "true");
    let brackets = |count: usize| format!("claims.x in [{}]", vec!["[]"; count - 1].join(", "));
    for expression in [
        "",
        "  ",
        "claims[",
        "claims.x ==",
        "1 2",
        "claims && )",
        "'",
        "\u{0}",
        "unknown == 1",
        "clams['sub'] == 'x'",
        "claims.x.unknown()",
        "unknown(claims.x)",
        "claims.x.lowerAscii()",
        "claims.x == base64.decode('eA==')",
        "google.protobuf.Empty{}",
        "optional.of(claims.x).hasValue()",
        "claims.a.exists(x, claims.b.exists(y, x == y))",
        "claims.a.filter(x, true).exists(y, true)",
        "claims.a.all(x, x.all(y, true))",
        "claims.a.map(x, x + x).size() > 0",
        "claims.a.map(x, claims).size() > 0",
        "claims.a.map(x, x, [x]).size() > 0",
        "claims.x.matches(claims.y)",
        "claims.x.matches('(')",
        r"claims.x.matches('(\\w{1000}){100}')",
        "matches(claims.x, 'a' + 'b')",
        &long("claims.x || "),
        &long(" "),
        &padded(1025),
        &brackets(129),
    ] {
        let error = refusal(builder().role_mapping(matcher(expression, "R")));
        assert!(error.to_string().contains("matcher"), "{error}");
    }
    for expression in [
        "true",
        "claims.exists(c, c == 'x')",
        "has(claims.act) && has(claims.act.sub)",
        "type(claims.x) == string",
        "claims.a.exists_one(x, x == 1) && claims.b.all(y, y != 'z')",
        "[1, 2].exists(x, x == claims.n)",
        "{'a': 1}[claims.x] == 1",
        "claims.x ? claims.y : false",
        "string(claims.n) == '1'",
        "claims.x.matches('^[a-z]{1,20}@example[.]com$')",
        &padded(1024),
        &brackets(128),
    ] {
        let built = builder().role_mapping(matcher(expression, "R")).build();
        assert!(built.is_ok(), "{expression}: {built:?}");
    }
}

#[test]
fn f54_an_expression_whose_types_do_not_fit_is_an_error_at_construction() {
    for (expression, hint) in [
        ("1", "an int"),
        ("claims", "a map"),
        ("'true'", "a string"),
        ("size(claims.groups)", "an int"),
        ("claims.groups.filter(g, g == 'a')", "a list"),
        ("true ? 1 : 2", "an int"),
        ("null", "null"),
        ("type(claims.x)", "a type"),
        ("claims.x && 1", "an int"),
        ("!claims", "a map"),
        ("'a' || claims.x", "a string"),
        ("'a' ? true : false", "a string"),
        ("size(claims.groups) == '3'", "never equal"),
        ("claims == 'admin'", "never equal"),
        ("claims.x == (1 == 'a')", "never equal"),
        ("1 < 'a'", "no order"),
        ("claims < claims", "a map"),
        ("type(claims.x) == 'string'", "never equal"),
        ("1 + 'a' == claims.x", "an int and a string"),
        ("1 + 1.0 == claims.x", "an int and a double"),
        ("'a' * 2 == claims.x", "a string"),
        ("-'a' == claims.x", "a string"),
        ("claims.x in 'abc'", "a string"),
        ("'a' in 1", "an int"),
        ("'abc'[0] == 'a'", "a string"),
        ("[1]['a'] == 1", "a string"),
        ("claims[null] == 1", "null"),
        ("size() == 1", "`size`"),
        ("size(claims, claims) == 1", "`size`"),
        ("claims.size(1) == 1", "`size`"),
        ("size(1) == 1", "an int"),
        ("true.size() == 1", "a bool"),
        ("contains(claims.x, 'a')", "`contains`"),
        ("claims.x.contains()", "`contains`"),
        ("claims.x.contains('a', 'b')", "`contains`"),
        ("claims.x.contains(1)", "an int"),
        ("claims.contains('a')", "a map"),
        ("claims.x.startsWith(null)", "null"),
        ("1.endsWith('a')", "an int"),
        ("claims.matches('a')", "a map"),
        ("claims.x.matches()", "`matches`"),
        ("claims.x.matches('a', 'b')", "`matches`"),
        ("claims.x.matches(1)", "an int"),
        ("string(claims) == 'x'", "a map"),
        ("int([1]) == 1", "a list"),
        ("claims.x.string() == 'x'", "`string`"),
        ("has('a'.b)", "a string"),
        ("1.a == 2", ""),
        ("'a'.exists(c, true)", "a string"),
        ("claims.groups.exists(g, 1)", "an int"),
        ("claims.groups.all(g, g + 'a')", ""),
        ("claims.groups.exists_one(g, 'x')", "a string"),
        ("claims.groups.filter(g, 1) == []", "an int"),
    ] {
        let error = refusal(builder().role_mapping(matcher(expression, "R")));
        let setting = error.invalid_settings()[0].setting();
        assert_eq!(setting, "role_mapping[0].matcher", "{expression}: {error}");
        assert!(error.to_string().contains(hint), "{expression}: {error}");
    }
    for expression in [
        "claims.x",
        "claims.x && claims.y",
        "dyn(1)",
        "claims.x + claims.y == 1",
        "claims.x < 2.5 || claims.x > 3u || claims.x == 1",
        "size(claims.groups) >= 2.5",
        "1 == 1.0 && 1u == 1",
        "claims.x == null || claims.x == [] || claims.x == {}",
        "null == null",
        "claims['x'] == claims[1]",
        "type(claims.x) == int",
        "claims.exists(name, name.startsWith('x-'))",
        "(claims.x ? 1 : 'a') == 1",
        "'a' + string(claims.n) == 'a1'",
        "claims.groups.filter(g, g != 'a').size() == 1",
        "[1, 'a', true][0] == 1",
        "matches(claims.x, 'a') && claims.y.matches('b')",
    ] {
        let built = builder().role_mapping(matcher(expression, "R")).build();
        assert!(built.is_ok(), "{expression}: {built:?}");
    }
}

/// All kinds of syntax that make a parser or an evaluator go deep, as long as they may be and longer.
fn deep_expressions() -> Vec<String> {
    let pieces = [
        "(",
        "[",
        "{",
        "{1:",
        "f(",
        "a.f(",
        "a{b:",
        "!",
        "-",
        "- ",
        "a?",
        "a?a:",
        "a.",
        "a[",
        "size(",
        "[a,",
        "has(",
        "claims.exists(a,",
        "!(",
        "-(",
        ")",
        "]",
        "}",
        "'",
        "\"",
        "'''",
        "r'",
        "\\",
        "/*",
        "//",
        "\n",
        "1+",
        "a&&",
        "é",
    ];
    let chains = [
        "+1",
        "-1",
        "*1",
        "<1",
        "||true",
        "&&true",
        "?1:1",
        ".a",
        ".f()",
        "[0]",
        "in[1]",
        "==1",
        ".size()",
        ".all(x,true)",
    ];
    let mut expressions = Vec::new();
    for length in [60, 127, 128, 129, 500, 1023, 1024, 1025, 100_000] {
        expressions.extend(
            pieces
                .iter()
                .map(|piece| piece.repeat(length / piece.len())),
        );
        for chain in chains {
            expressions.push(format!(
                "claims{}",
                chain.repeat(length.saturating_sub(6) / chain.len())
            ));
        }
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{1:", "}"),
            ("size(", ")"),
            ("!(", ")"),
        ] {
            let times = length / (open.len() + close.len());
            expressions.push(format!(
                "{}claims{}",
                open.repeat(times),
                close.repeat(times)
            ));
            expressions.push(format!("{}true{}", open.repeat(times), close.repeat(times)));
        }
    }
    expressions
}

#[tokio::test]
async fn no_expression_aborts_or_panics() {
    let aws = AwsStack::start().await;
    let mut deep = json!("x");
    for _ in 0..30 {
        deep = json!([deep]);
    }
    let claims = json!({ "x": deep, "groups": ["a"] });
    let mut built = 0;
    for expression in deep_expressions() {
        let Ok(strategy) = aws
            .builder()
            .role_mapping(matcher(&expression, "R"))
            .build()
        else {
            continue;
        };
        built += 1;
        let mut request = aws.request(&user_with("alice", "t", claims.clone()));
        // On half of the stack that a thread has by default.
        let evaluating = std::thread::Builder::new()
            .stack_size(1 << 20)
            .spawn(move || {
                drop(tower_identity::Strategy::authenticate(
                    &strategy,
                    &mut request,
                ));
            });
        evaluating.unwrap().join().unwrap();
    }
    assert!(built > 10, "{built}");
}

#[tokio::test]
async fn an_expression_of_64_levels_is_evaluated_over_claims_of_32() {
    let aws = AwsStack::start().await;
    let mut deep = json!(1);
    for _ in 0..31 {
        deep = json!({ "a": deep });
    }
    let path = ".a".repeat(31);
    let expressions = [
        format!("claims.x{path} == 1"),
        format!(
            "claims.x == claims.x{}",
            " && claims.x == claims.x".repeat(20)
        ),
        format!("{}true{}", "!!(".repeat(20), ")".repeat(20)),
        format!("1{} == 63", " + 1".repeat(62)),
    ];
    for expression in &expressions {
        let chosen = role(&aws, &[matcher(expression, "R")], json!({ "x": deep })).await;
        assert_eq!(chosen.unwrap(), "R", "{expression}");
    }
    // One level more.
    let more = format!("1{} == 64", " + 1".repeat(63));
    refusal(builder().role_mapping(matcher(&more, "R")));
    for too_deep in [json!({ "x": { "a": deep } }), json!({ "x": [deep] })] {
        let error = role(&aws, &[matcher("true", "R")], too_deep)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
    }
}

#[tokio::test]
async fn claims_that_are_too_many_are_not_evaluated_over() {
    let aws = AwsStack::start().await;
    let groups = |count| json!({ "groups": vec!["a"; count] });
    for claims in [groups(2047), json!({ "a": "x".repeat((1 << 16) - 1) })] {
        let chosen = role(&aws, &[matcher("true", "R")], claims).await;
        assert_eq!(chosen.unwrap(), "R");
    }
    for claims in [
        groups(2048),
        json!({ "a": "x".repeat(1 << 16) }),
        json!({ "a".repeat((1 << 16) + 1): 1 }),
        json!({ "a": { "a".repeat(1 << 16): 1 } }),
    ] {
        let error = role(&aws, &[matcher("true", "R")], claims.clone())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
    }
    // A plain claim value is still found.
    assert_eq!(
        role(&aws, &[claim("a", "A")], groups(100_000))
            .await
            .unwrap(),
        "A"
    );
}

fn groups(count: usize) -> Value {
    let groups: Vec<_> = (0..count)
        .map(|number| format!("customer-{number:05}-readers"))
        .collect();
    json!(groups)
}

#[tokio::test]
async fn f51_a_pattern_is_compiled_once_however_many_groups_there_are() {
    let aws = AwsStack::start().await;
    let expression = r"claims.groups.exists(g, g.matches('^(team|unit)-[a-z]+-[0-9]{1,8}$'))";
    let strategy = aws
        .builder()
        .role_mapping(matcher(expression, "R"))
        .build()
        .unwrap();
    let allocations = |count: usize| {
        let claims = json!({ "groups": groups(count) });
        let mut request = aws.request(&user_with("alice", "t", claims));
        let measured = allocation_counter::measure(|| {
            drop(tower_identity::Strategy::authenticate(
                &strategy,
                &mut request,
            ));
        });
        measured.count_total
    };
    allocations(1_700);
    let (few, many) = (allocations(100), allocations(1_700));
    // To compile such a pattern takes hundreds.
    assert!(many - few < 1_600 * 24, "{few} {many}");
}

#[tokio::test]
async fn f51_the_work_of_a_matcher_is_bounded_by_patterns_times_list() {
    let aws = AwsStack::start().await;
    let text = |length: usize| "ab".repeat(length / 2);
    // What goes through the list once is evaluated over as many groups as may be.
    for expression in [
        r"claims.groups.exists(g, g.matches('^customer-01699-'))",
        r"claims.groups.exists(g, g.matches('^\\w+-01699-\\w+$'))",
        r"claims.groups.filter(g, g.contains('-01699-')).size() == 1",
        r"'customer-01699-readers' in claims.groups && claims.text.matches('(a|b)*')",
    ] {
        let claims = json!({ "groups": groups(1_700), "text": text(16 << 10) });
        let chosen = role(&aws, &[matcher(expression, "R")], claims).await;
        assert_eq!(chosen.unwrap(), "R", "{expression}");
    }
    // What goes through another claim for each of them only while the product is small.
    for expression in [
        r"claims.groups.all(g, claims.text.matches('(a|b)*'))",
        r"claims.groups.all(g, claims.text.contains('a'))",
        r"claims.groups.all(g, claims.text + g != claims.text)",
        r"claims.groups.all(g, [claims, claims][0] == claims)",
        r"claims.groups.filter(g, claims.text.matches('(a|b)*')) == claims.groups",
    ] {
        let small = json!({ "groups": groups(20), "text": text(100) });
        let chosen = role(&aws, &[matcher(expression, "R")], small).await;
        assert_eq!(chosen.unwrap(), "R", "{expression}");
        let large = json!({ "groups": groups(1_700), "text": text(16 << 10) });
        let refused = role(&aws, &[matcher(expression, "R")], large).await;
        let kind = refused.map_err(|error| error.kind());
        assert_eq!(kind, Err(AuthErrorKind::InsufficientScope), "{expression}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Subjects that are unlike, alike but for what does not fit, or the replacements of others.
fn any_subject() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-b|/ü-]{1,3}",
        "[a-b|]{62,66}",
        "\\PC{1,80}",
        "[a-b-]{1,3},sha256=[0-9a-f]{32}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn f52_no_two_subjects_share_a_session_name(
        subjects in prop::collection::btree_set(any_subject(), 2..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let aws = AwsStack::start().await;
            let strategy = aws.builder().replace_unfit_session_names().build().unwrap();
            let mut names = std::collections::BTreeMap::new();
            for subject in subjects.into_iter().filter(|subject| !subject.trim().is_empty()) {
                let name = session_name(&aws, &strategy, &subject.replace(' ', "_")).await;
                // And the user who is called like that name.
                let called_so = session_name(&aws, &strategy, &name).await;
                for (name, subject) in [(name.clone(), subject.replace(' ', "_")), (called_so, name)] {
                    let other = names.insert(name, subject.clone());
                    assert!(other.is_none_or(|other| other == subject));
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_as_an_expression_aborts_or_panics(
        expression in "(claims|true|1|'a'|[-+*/%!?:.,<>=&|(){}\\[\\] ]|exists|size|matches|x| in |\\PC){0,60}"
    ) {
        let _ = builder().role_mapping(matcher(&expression, "R")).build();
    }

    #[test]
    fn no_claims_abort_or_panic(
        claims in prop::collection::btree_map("[a-d]", any_json(), 0..4),
    ) {
        let claims: Map<String, Value> = claims.into_iter().collect();
        let expressions = [
            "claims.a == claims.b", "claims.a + claims.b == claims.c", "claims.a < claims.b", "claims.a in claims.b",
            "claims.a / claims.b == 1", "claims.a % claims.b == 1", "-claims.a == claims.b", "claims.a[claims.b] == 1",
            "claims.a.size() == claims.b", "claims.a.exists(x, x == claims.b)", "int(claims.a) == 1",
            "double(claims.a) == 1.0", "string(claims.a) == 'x'", "claims.a * claims.b == 2", "claims.a - claims.b == 2",
            "claims.a.contains(claims.b)", "claims.a.matches('a')", "claims.a.filter(x, x != claims.b) == claims.c",
        ];
        let builder = expressions.iter().fold(builder(), |builder, expression| {
            builder.role_mapping(matcher(expression, "R"))
        });
        let strategy = builder.build().unwrap();
        let mut request = http::Request::get("https://mcp.example.com/").body(Body::default()).unwrap();
        request.extensions_mut().insert(user_with("alice", "t", Value::Object(claims)));
        drop(tower_identity::Strategy::authenticate(&strategy, &mut request));
    }
}

#[tokio::test]
async fn a_session_is_named_by_a_claim_that_fits() {
    let aws = AwsStack::start().await;
    let strategy = aws.builder().session_name_claim("email").build().unwrap();
    let longest = "a".repeat(64);
    for fits in ["ab", "alice@example.com", "A_z+=,.@-9", &longest] {
        let alice = user_with("alice", "t", json!({ "email": fits }));
        assert_eq!(aws.call(&strategy, &alice).await.unwrap().name, fits);
    }
    let calls = aws.sts.calls();
    let too_long = "a".repeat(65);
    for unfit in [
        json!(""),
        json!("a"),
        json!(too_long),
        json!("auth0|123"),
        json!("al ice"),
        json!("ål"),
        json!("a\n"),
        json!(null),
        json!(12),
        json!(["ab"]),
    ] {
        let error = aws
            .call(
                &strategy,
                &user_with("alice", "t", json!({ "email": unfit })),
            )
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
        assert!(error.to_string().contains("`email`"), "{error}");
        let value = unfit.as_str().filter(|value| value.len() > 2);
        assert!(
            value.is_none_or(|value| !error.to_string().contains(value)),
            "{error}"
        );
    }
    let error = aws.call(&strategy, &user("alice", "t")).await.unwrap_err();
    assert!(error.to_string().contains("`email`"), "{error}");
    assert_eq!(aws.sts.calls(), calls);
}

#[tokio::test]
async fn unfit_characters_of_a_session_name_are_replaced_where_that_is_wanted() {
    let aws = AwsStack::start().await;
    let strategy = aws.builder().replace_unfit_session_names().build().unwrap();
    let mut names = std::collections::BTreeSet::new();
    let long = ["a", "b"].map(|end| format!("{}{end}", "x".repeat(100)));
    let unfit = [
        "auth0|123",
        "auth0/123",
        "auth0-123",
        "a",
        "ü",
        "日本語",
        "a b",
        "a\tb",
        &long[0],
        &long[1],
    ];
    for subject in unfit {
        let name = aws.call(&strategy, &user(subject, "t")).await.unwrap().name;
        assert!((2..=64).contains(&name.len()), "{name}");
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        assert!(name.bytes().all(fits), "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), unfit.len());
    assert!(names.contains("auth0-123"), "what fits stays: {names:?}");
    let replaced = names
        .iter()
        .filter(|name| name.starts_with("auth0-123,sha256="));
    assert_eq!(replaced.count(), 2);
}

/// A user's session name, which is their subject or made of it.
async fn session_name(aws: &AwsStack, strategy: &AwsSts, subject: &str) -> String {
    let session = aws.call(strategy, &user(subject, "t")).await;
    session.unwrap().name
}

#[tokio::test]
async fn f52_a_name_that_looks_replaced_is_replaced_itself() {
    let aws = AwsStack::start().await;
    let strategy = aws.builder().replace_unfit_session_names().build().unwrap();
    let mut names = vec!["auth0|123".to_owned()];
    for step in 0..4 {
        let name = session_name(&aws, &strategy, &format!("s{}", names[step])).await;
        assert!(!names.contains(&name), "{name}");
        let name = session_name(&aws, &strategy, &names[step]).await;
        assert!(!names.contains(&name), "{name}");
        names.push(name);
    }
}

#[test]
fn an_arn_that_is_not_that_of_a_role_is_refused() {
    let name = format!("arn:aws:iam::123456789012:role/{}", "n".repeat(64));
    let path = format!("arn:aws:iam::123456789012:role/{}/Role", "p".repeat(510));
    for fits in [
        "arn:aws:iam::123456789012:role/Admin",
        "arn:aws:iam::123456789012:role/a/long/path/Admin_+=,.@-1",
        "arn:aws-cn:iam::123456789012:role/Admin",
        "arn:aws-us-gov:iam::123456789012:role/Admin",
        "arn:aws-iso-b:iam::123456789012:role/Admin",
        "arn:aws-eusc:iam::123456789012:role/Admin",
        "arn:aws:iam::123456789012:role/aws-service-role/x.amazonaws.com/Role",
        &name,
        &path,
    ] {
        assert!(builder().fallback_role(fits).build().is_ok(), "{fits}");
    }
    let name = format!("arn:aws:iam::123456789012:role/{}", "n".repeat(65));
    let path = format!("arn:aws:iam::123456789012:role/{}/Role", "p".repeat(511));
    for unfit in [
        "",
        "Admin",
        "arn",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:role//Admin",
        "arn:aws:iam::123456789012:role",
        "arn:aws:iam::123456789012:role/path/",
        "arn:aws:iam::123456789012:user/Admin",
        "arn:aws:iam::123456789012:Role/Admin",
        "arn:aws:iam::12345678901:role/Admin",
        "arn:aws:iam::1234567890123:role/Admin",
        "arn:aws:iam::12345678901a:role/Admin",
        "arn:aws:iam::１２３４:role/Admin",
        "arn:aws:iam:eu-west-1:123456789012:role/Admin",
        "arn:aws:sts::123456789012:assumed-role/Admin/x",
        "arn:aws:sts::123456789012:role/Admin",
        "arn::iam::123456789012:role/Admin",
        "arn:azure:iam::123456789012:role/Admin",
        "arn:awsx:iam::123456789012:role/Admin",
        "arn:aws-:iam::123456789012:role/Admin",
        "arn:aws:iam::123456789012:role/Ad min",
        "arn:aws:iam::123456789012:role/Admin\n",
        "arn:aws:iam::123456789012:role/Admin:x",
        " arn:aws:iam::123456789012:role/Admin",
        "arn:aws:iam::123456789012:role/é/Admin",
        &name,
        &path,
    ] {
        refusal(builder().fallback_role(unfit));
        refusal(builder().role_mapping(RoleMapping::claim("a", unfit)));
        refusal(builder().role_mapping(RoleMapping::matcher("true", unfit)));
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let ready = || builder().fallback_role(DEFAULT_ROLE);
    ready().build().unwrap();
    refusal(builder());
    for region in [
        "",
        "eu west",
        "evil.example.com",
        "eu-west-1/",
        "EU-WEST-1",
        "-a",
        "a-",
        "a#",
        &"a".repeat(64),
    ] {
        let client = http_client::<Body>();
        refusal(AwsSts::builder(region, client).fallback_role(DEFAULT_ROLE));
    }
    for service in ["", "aws mcp", "aws/mcp", "aws\n"] {
        refusal(ready().service(service));
    }
    for seconds in [1, 899, 43_201, u64::MAX] {
        refusal(ready().session_duration(std::time::Duration::from_secs(seconds)));
    }
    refusal(ready().session_duration(std::time::Duration::from_millis(900_500)));
    for url in [
        "",
        "/sts",
        "sts.example.com",
        "http://sts.example.com",
        "ftp://127.0.0.1",
        "https://u:p@sts.example.com",
    ] {
        refusal(ready().sts_endpoint(url));
    }
    ready()
        .sts_endpoint("https://vpce-1.sts.eu-west-1.vpce.amazonaws.com")
        .build()
        .unwrap();
    refusal(ready().role_claim(""));
    refusal(ready().session_name_claim(""));
    refusal(ready().role_mapping(claim("", "Admin")));
    refusal(ready().subject(Subject::upstream(" ")));
}
