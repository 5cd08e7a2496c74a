//! What can be wrong with a Pod's names and resolver: DNS policy and settings, host aliases.
//!
//! Counterparts: `validateDNSPolicy`, `validatePodDNSConfig`, `ValidateHostAliases`.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::{strict_ip, underscored_subdomain};
use crate::validation::dns_subdomain;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;

pub fn validate_dns_policy(policy: &At, errors: &mut ErrorList) {
    const POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    policy.needed_one_of(errors, POLICIES);
}

pub fn validate_dns_config(spec: &At, errors: &mut ErrorList) {
    let config = spec.child("dnsConfig");
    let servers = config.child("nameservers");
    if spec.text_of("dnsPolicy") == "None" {
        if !config.is_set() {
            config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            servers.required(errors, detail);
            return;
        }
    }
    if servers.list().len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        servers.invalid(errors, detail);
    }
    servers.items().for_each(|server| server.obeys(errors, strict_ip));
    searches(&config.child("searches"), errors);
    for option in config.child("options").items() {
        if option.text_of("name").is_empty() {
            option.required(errors, "must not be empty");
        }
    }
}

fn searches(searches: &At, errors: &mut ErrorList) {
    let texts = || searches.list().iter().filter_map(|search| search.as_str());
    if searches.list().len() > SEARCHES_MAX {
        searches.invalid(errors, format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if texts().collect::<Vec<_>>().join(" ").len() > SEARCH_CHARACTERS_MAX {
        let detail = format!(
            "must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list"
        );
        searches.invalid(errors, detail);
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let text = search.text().strip_suffix('.').unwrap_or(search.text());
        for fault in underscored_subdomain(text) {
            search.invalid_as(errors, text, fault);
        }
    }
}

pub fn validate_host_aliases(aliases: &At, errors: &mut ErrorList) {
    for alias in aliases.items() {
        alias.child("ip").obeys(errors, strict_ip);
        alias.child("hostnames").items().for_each(|name| name.obeys(errors, dns_subdomain));
    }
}
