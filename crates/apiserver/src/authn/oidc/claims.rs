//! What claims make of a user.
//!
//! Believed claims + the mappings and rules of their issuer -> a user, or why there is none. Counterpart: the second half of
//! `oidc.go`. Invariant: a rule that cannot be evaluated refuses.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::{AudienceMatch, JwtIssuer, Mapping};
use crate::user::UserInfo;

/// Audience and times.
pub fn check(config: &JwtIssuer, claims: &Value, now: i64) -> Result<(), String> {
    let fault = |text: String| Err(format!("oidc: verify token: {text}"));
    let given = texts(&claims["aud"]).unwrap_or_default();
    let known = given.iter().any(|audience| config.audiences.contains(audience));
    let good = match config.audience_match {
        AudienceMatch::One => known && (given.len() == 1 || config.audiences.len() == 1),
        AudienceMatch::Any => known,
    };
    if !good {
        let (wanted, given) =
            (super::super::go_list(&config.audiences), super::super::go_list(&given));
        return fault(format!("oidc: expected audience in {wanted} got {given}"));
    }
    let Some(expires) = seconds(&claims["exp"]) else {
        return fault("token has no expiry".to_owned());
    };
    if expires < now {
        let at = skiff_api::time::format(expires);
        return fault(format!("oidc: token is expired (Token Expiry: {at})"));
    }
    // Clocks differ; go-oidc forgives five minutes.
    match seconds(&claims["nbf"]) {
        Some(begins) if begins > now + 300 => {
            let [now, at] = [now, begins].map(skiff_api::time::format);
            fault(format!("oidc: current time {now} before the nbf (not before) time: {at}"))
        }
        _ => Ok(()),
    }
}

fn seconds(time: &Value) -> Option<i64> {
    time.as_i64().or_else(|| time.as_f64().map(|seconds| seconds as i64))
}

/// The user, once the claims are believed.
pub fn user(config: &JwtIssuer, claims: &Value) -> Result<UserInfo, String> {
    let user = UserInfo {
        name: name(config, claims)?,
        groups: groups(config, claims)?,
        uid: uid(config, claims)?,
        extra: extra(config, claims)?,
    };
    required(config, claims)?;
    for rule in &config.claim_rules {
        rule.check(claims)
            .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
    }
    let shown = json!({ "username": user.name, "uid": user.uid, "groups": user.groups,
        "extra": user.extra });
    for rule in &config.user_rules {
        rule.check(&shown)
            .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
    }
    Ok(user)
}

fn name(config: &JwtIssuer, claims: &Value) -> Result<String, String> {
    match &config.username {
        Mapping::Expression(expression) => {
            let fault = |why| format!("oidc: error evaluating username claim expression: {why}");
            match expression.evaluate(claims).map_err(fault)? {
                Value::String(name) if name.is_empty() => {
                    Err("oidc: empty username via CEL expression is not allowed".to_owned())
                }
                Value::String(name) => Ok(name),
                _ => Err(fault("username claim expression must return a string".to_owned())),
            }
        }
        Mapping::Claim { claim, prefix } => {
            let name = text(claims, claim)
                .map_err(|why| format!("oidc: parse username claims {claim:?}: {why}"))?;
            if claim == "email" && claims.get("email_verified").is_some_and(|ok| ok != true) {
                return Err("oidc: email not verified".to_owned());
            }
            Ok(format!("{prefix}{name}"))
        }
    }
}

fn groups(config: &JwtIssuer, claims: &Value) -> Result<Vec<String>, String> {
    match &config.groups {
        None => Ok(Vec::new()),
        Some(Mapping::Claim { claim, prefix }) => {
            let Some(value) = claims.get(claim) else { return Ok(Vec::new()) };
            let groups = texts(value).ok_or_else(|| {
                format!("oidc: parse groups claim {claim:?}: neither text nor a list of texts")
            })?;
            Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
        }
        Some(Mapping::Expression(expression)) => {
            let fault = |why| format!("oidc: error evaluating group claim expression: {why}");
            listed(&expression.evaluate(claims).map_err(fault)?).map_err(fault)
        }
    }
}

fn uid(config: &JwtIssuer, claims: &Value) -> Result<String, String> {
    match &config.uid {
        None => Ok(String::new()),
        Some(Mapping::Claim { claim, .. }) => {
            text(claims, claim).map_err(|why| format!("oidc: parse uid claim {claim:?}: {why}"))
        }
        Some(Mapping::Expression(expression)) => {
            let fault = |why| format!("oidc: error evaluating uid claim expression: {why}");
            match expression.evaluate(claims).map_err(fault)? {
                Value::String(uid) => Ok(uid),
                _ => Err(fault("uid claim expression must return a string".to_owned())),
            }
        }
    }
}

fn extra(config: &JwtIssuer, claims: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut extra = BTreeMap::new();
    if let Some(jti) = claims["jti"].as_str().filter(|jti| !jti.is_empty()) {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        extra.insert(key, vec![format!("JTI={jti}")]);
    }
    for (key, expression) in &config.extra {
        let fault = |why| {
            let text = &expression.text;
            format!("oidc: error evaluating extra claim expression: {text}: {why}")
        };
        let mut values = listed(&expression.evaluate(claims).map_err(fault)?).map_err(fault)?;
        values.retain(|value| !value.is_empty());
        if !values.is_empty() {
            extra.insert(key.clone(), values);
        }
    }
    Ok(extra)
}

fn required(config: &JwtIssuer, claims: &Value) -> Result<(), String> {
    for (claim, wanted) in &config.required {
        if claims.get(claim).is_none() {
            return Err(format!("oidc: required claim {claim} not present in ID token"));
        }
        let got = text(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
        if got != *wanted {
            return Err(format!(
                "oidc: required claim {claim} value does not match. Got = {got}, want = {wanted}"
            ));
        }
    }
    Ok(())
}

fn text(claims: &Value, claim: &str) -> Result<String, String> {
    match claims.get(claim) {
        None => Err("claim not present".to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err("the claim is no text".to_owned()),
    }
}

/// Text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|one| Some(one.as_str()?.to_owned())).collect(),
        _ => None,
    }
}

/// What an expression may give where several values may stand; nothing is none.
fn listed(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        other => texts(other)
            .ok_or_else(|| "expression must return a string or a list of strings".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::oidc::config::{OidcFlags, parse};

    fn by_flags(change: impl FnOnce(&mut OidcFlags)) -> JwtIssuer {
        let mut flags = OidcFlags {
            issuer_url: "https://login.test".to_owned(),
            client_id: "skiff".to_owned(),
            ..OidcFlags::default()
        };
        change(&mut flags);
        JwtIssuer::of_flags(flags).expect("good flags")
    }

    fn good() -> Value {
        json!({ "iss": "https://login.test", "aud": "skiff", "exp": 2000, "sub": "42",
            "email": "jane@test", "groups": ["devs"], "team": "blue" })
    }

    #[test]
    fn names_are_prefixed_unless_told_otherwise() {
        let plain = by_flags(|_| {});
        assert_eq!(user(&plain, &good()).expect("a user").name, "https://login.test#42");
        let by_mail = by_flags(|flags| flags.username_claim = "email".to_owned());
        assert_eq!(user(&by_mail, &good()).expect("a user").name, "jane@test");
        let bare = by_flags(|flags| flags.username_prefix = Some("-".to_owned()));
        assert_eq!(user(&bare, &good()).expect("a user").name, "42");
        let grouped = by_flags(|flags| {
            flags.groups_claim = Some("groups".to_owned());
            flags.groups_prefix = "oidc:".to_owned();
        });
        assert_eq!(user(&grouped, &good()).expect("a user").groups, ["oidc:devs"]);
    }

    #[test]
    fn claims_that_do_not_fit_say_why() {
        let config = by_flags(|flags| flags.required_claims = vec!["team=red".to_owned()]);
        assert_eq!(
            user(&config, &good()).expect_err("refused"),
            "oidc: required claim team value does not match. Got = blue, want = red"
        );
        let by_mail = by_flags(|flags| flags.username_claim = "email".to_owned());
        let mut unverified = good();
        unverified["email_verified"] = false.into();
        assert_eq!(user(&by_mail, &unverified).expect_err("refused"), "oidc: email not verified");
        for (claim, value, part) in [
            ("aud", json!("other"), "expected audience in [\"skiff\"] got [\"other\"]"),
            ("exp", json!(999), "token is expired"),
            ("nbf", json!(1999), "before the nbf"),
        ] {
            let mut claims = good();
            claims[claim] = value;
            let fault = check(&config, &claims, 1000).expect_err(claim);
            assert!(fault.contains(part), "{fault}");
        }
        assert_eq!(check(&config, &good(), 1000), Ok(()));
    }

    #[test]
    fn expressions_map_claims_and_rules_refuse() {
        let config = parse(
            "jwt:\n- issuer: {url: https://login.test, audiences: [skiff]}\n  claimMappings:\n    \
             username: {expression: '\"user:\" + claims.sub'}\n    \
             groups: {expression: 'claims.groups.map(g, \"x:\" + g)'}\n    \
             uid: {claim: sub}\n    extra: [{key: example.com/team, valueExpression: claims.team}]\n  \
             claimValidationRules: [{expression: 'claims.team == \"blue\"', message: only blue}]\n  \
             userValidationRules: [{expression: '!user.username.startsWith(\"system:\")', message: reserved}]\n",
        )
        .expect("a good file")
        .remove(0);
        let jane = user(&config, &good()).expect("a user");
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("user:42", "42"));
        assert_eq!(jane.groups, ["x:devs"]);
        assert_eq!(jane.extra["example.com/team"], ["blue"]);
        let mut red = good();
        red["team"] = "red".into();
        let fault = user(&config, &red).expect_err("refused");
        assert!(fault.ends_with("failed: only blue"), "{fault}");
    }
}
