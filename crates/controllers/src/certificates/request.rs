//! What a certificate request asks for, and whether a signer issues such certificates.
//!
//! PEM -> subject and names; with usages -> a fault in upstream's words, or none. Counterparts:
//! `pkg/apis/certificates/helpers.go` and the verification functions of the signer.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// The parts that rules are about.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub der: Vec<u8>,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: usize,
    pub addresses: usize,
    pub emails: usize,
    pub uris: usize,
}

impl Asked {
    pub fn read(request: &CertificateSigningRequest) -> Result<Asked, String> {
        let not_a_request = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
        let (_, pem) = parse_x509_pem(&request.spec.request.0).map_err(|_| not_a_request())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err(not_a_request());
        }
        let (_, parsed) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let subject = &parsed.certification_request_info.subject;
        let mut asked = Asked {
            common_name: subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect(),
            organizations: subject
                .iter_organization()
                .filter_map(|name| name.as_str().ok())
                .map(str::to_owned)
                .collect(),
            ..Asked::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| asked.count(name));
            }
        }
        asked.der = pem.contents.clone();
        Ok(asked)
    }

    fn count(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(_) => self.dns_names += 1,
            GeneralName::IPAddress(_) => self.addresses += 1,
            GeneralName::RFC822Name(_) => self.emails += 1,
            GeneralName::URI(_) => self.uris += 1,
            _ => {}
        }
    }

    /// Why a signer does not issue this; `None` if it does.
    pub fn fault(&self, signer: &str, usages: &[String]) -> Option<String> {
        match signer {
            NODE_CLIENT => self.node_client_fault(usages),
            NODE_SERVING => self.node_serving_fault(usages),
            _ => client_fault(usages),
        }
    }

    fn node_client_fault(&self, usages: &[String]) -> Option<String> {
        let fault = match () {
            () if self.organizations != [NODES] => "subject organization is not system:nodes",
            () if self.dns_names > 0 => "DNS subjectAltNames are not allowed",
            () if self.emails > 0 => "Email subjectAltNames are not allowed",
            () if self.addresses > 0 => "IP subjectAltNames are not allowed",
            () if self.uris > 0 => "URI subjectAltNames are not allowed",
            () if !self.common_name.starts_with(NODE_PREFIX) => {
                "subject common name does not begin with system:node:"
            }
            () => return usages_fault(usages, "client auth"),
        };
        Some(fault.to_owned())
    }

    fn node_serving_fault(&self, usages: &[String]) -> Option<String> {
        let fault = match () {
            () if self.organizations != [NODES] => "subject organization is not system:nodes",
            () if self.dns_names + self.addresses == 0 => "DNS or IP subjectAltName is required",
            () if self.emails > 0 => "Email subjectAltNames are not allowed",
            () if self.uris > 0 => "URI subjectAltNames are not allowed",
            () => {
                return usages_fault(usages, "server auth").or_else(|| {
                    let named = self.common_name.starts_with(NODE_PREFIX);
                    let fault = "subject common name does not begin with system:node:";
                    (!named).then(|| fault.to_owned())
                });
            }
        };
        Some(fault.to_owned())
    }
}

/// `digital signature` and the one purpose, and perhaps `key encipherment`.
fn usages_fault(usages: &[String], purpose: &str) -> Option<String> {
    let has = |usage: &str| usages.iter().any(|have| have == usage);
    let known = |usage: &String| {
        ["digital signature", "key encipherment", purpose].contains(&usage.as_str())
    };
    let fits = has("digital signature") && has(purpose) && usages.iter().all(known);
    let mut wanted = [purpose, "digital signature"];
    wanted.sort_unstable();
    (!fits).then(|| format!("usages did not match [{}]", wanted.join(" ")))
}

/// Any subject, for clients only.
fn client_fault(usages: &[String]) -> Option<String> {
    const KNOWN: &[&str] = &["client auth", "digital signature", "key encipherment"];
    if let Some(other) = usages.iter().find(|usage| !KNOWN.contains(&usage.as_str())) {
        return Some(format!("usage {other:?} is not allowed"));
    }
    let named = usages.iter().any(|usage| usage == "client auth");
    (!named).then(|| "usages must include client auth".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    fn node() -> Asked {
        Asked {
            common_name: "system:node:one".to_owned(),
            organizations: vec![NODES.to_owned()],
            ..Asked::default()
        }
    }

    #[test]
    fn a_node_client_has_a_node_name_and_no_other() {
        let client = usages(&["digital signature", "client auth"]);
        let fault = |asked: Asked| asked.fault(NODE_CLIENT, &client);
        assert_eq!(fault(node()), None);
        assert_eq!(
            fault(Asked { dns_names: 1, ..node() }).as_deref(),
            Some("DNS subjectAltNames are not allowed")
        );
        assert_eq!(
            fault(Asked { common_name: "jane".to_owned(), ..node() }).as_deref(),
            Some("subject common name does not begin with system:node:")
        );
        assert_eq!(
            fault(Asked { organizations: vec!["system:masters".to_owned()], ..node() }).as_deref(),
            Some("subject organization is not system:nodes")
        );
        let serving = usages(&["digital signature", "server auth"]);
        assert_eq!(
            node().fault(NODE_CLIENT, &serving).as_deref(),
            Some("usages did not match [client auth digital signature]")
        );
    }

    #[test]
    fn a_node_server_has_names_of_its_own() {
        let serving = usages(&["key encipherment", "digital signature", "server auth"]);
        assert_eq!(Asked { addresses: 1, ..node() }.fault(NODE_SERVING, &serving), None);
        assert_eq!(
            node().fault(NODE_SERVING, &serving).as_deref(),
            Some("DNS or IP subjectAltName is required")
        );
    }

    #[test]
    fn a_client_is_nothing_but_a_client() {
        assert_eq!(Asked::default().fault(CLIENT, &usages(&["client auth"])), None);
        assert!(Asked::default().fault(CLIENT, &usages(&["client auth", "server auth"])).is_some());
        assert!(Asked::default().fault(CLIENT, &usages(&["digital signature"])).is_some());
    }
}
