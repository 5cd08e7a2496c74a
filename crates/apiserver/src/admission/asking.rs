//! What expressions ask about permissions: `authorizer.group('apps').resource('deployments').check('create').allowed()`.
//!
//! [`Question`] -> [`Decision`], by the same authorisers that judge requests, for the requesting user or a service account.
//! Counterpart: `admission/plugin/authorizer` behind `cel/library/authz.go`.

use std::sync::Arc;

use futures::FutureExt;
use skiff_api::selector::Labels;
use skiff_cel::{Authorizer, Decision, Question};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::Request;
use crate::authz::{self, Attributes};
use crate::server::Server;
use crate::user::UserInfo;

pub struct RequestAuthorizer {
    /// None where there is nobody to ask.
    server: Option<Arc<Server>>,
    user: UserInfo,
    request: Question,
}

impl RequestAuthorizer {
    pub fn of(request: &Request<'_>) -> RequestAuthorizer {
        let about = Question {
            group: request.requested.group.clone(),
            resource: request.requested.resource.clone(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.clone(),
            ..Question::default()
        };
        let server = Some(request.call.server.clone());
        RequestAuthorizer { server, user: request.user.clone(), request: about }
    }

    #[cfg(test)]
    pub fn of_nobody() -> RequestAuthorizer {
        RequestAuthorizer {
            server: None,
            user: UserInfo::anonymous(),
            request: Question::default(),
        }
    }

    /// The resource that the request itself is about.
    pub fn about_request(&self) -> Question {
        self.request.clone()
    }
}

impl Authorizer for RequestAuthorizer {
    fn authorize(&self, question: &Question) -> Decision {
        let Some(server) = &self.server else { return unanswered("there is no authorizer") };
        let user = match &question.service_account {
            Some((namespace, name)) => UserInfo::service_account(namespace, name),
            None => self.user.clone(),
        };
        let attributes = attributes(question);
        let asked = authz::decide(server, &user, &attributes);
        match wait(asked) {
            Some(Ok(decision)) => {
                let allowed = decision.is_allowed();
                Decision { allowed, reason: decision.reason, error: None }
            }
            Some(Err(status)) => unanswered(&status.message),
            None => unanswered("the authorizer does not answer at once"),
        }
    }
}

fn unanswered(why: &str) -> Decision {
    Decision { error: Some(why.to_owned()), ..Decision::default() }
}

/// Expressions are evaluated without pause. Rules in the store are there at once; who has to ask elsewhere is waited for,
/// where another thread can take over the others meanwhile.
fn wait<T>(answer: impl Future<Output = T>) -> Option<T> {
    match Handle::try_current().map(|handle| (handle.runtime_flavor(), handle)) {
        Ok((RuntimeFlavor::MultiThread, handle)) => {
            Some(tokio::task::block_in_place(|| handle.block_on(answer)))
        }
        _ => answer.now_or_never(),
    }
}

fn attributes(question: &Question) -> Attributes {
    Attributes {
        verb: question.verb.clone(),
        is_resource: question.path.is_none(),
        group: question.group.clone(),
        resource: question.resource.clone(),
        subresource: question.subresource.clone(),
        namespace: question.namespace.clone(),
        name: question.name.clone(),
        path: question.path.clone().unwrap_or_default(),
        label_selector: Labels::parse(&question.label_selector).unwrap_or_default(),
        ..Attributes::default()
    }
}
