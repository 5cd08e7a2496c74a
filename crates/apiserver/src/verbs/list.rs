//! `list`: a page of a collection as of one revision.
//!
//! Stored bytes are put side by side; they are looked into only for selectors. Counterpart:
//! `storage/etcd3/store.go` `GetList`.

use std::sync::Arc;

use skiff_api::{KindDef, Reason, Status};
use skiff_store::{Entry, RangeRequest, Revision};

use super::selection::{AtRevision, ContinueToken, Selection, check_list_options};
use crate::call::Call;
use crate::objects;
use crate::query::Query;
use crate::reply::{List, Reply};

/// How much is read at once while looking for what selectors leave.
const CHUNK: usize = 1000;

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    check_list_options(&call.query, false)?;
    let selection = Selection::read(call, &kind)?;
    let limit = limit(&call.query)?;
    let page = page(call, &kind, &selection, limit).await?;
    let items = objects::all_at_version(&call.server, &kind, &page.entries).await?;
    Ok(Reply::List(List {
        kind,
        items,
        resource_version: page.revision.to_string(),
        continue_token: page.token,
        remaining: page.remaining,
    }))
}

/// A list at revision 0 comes from upstream's cache, which knows no pages.
fn limit(query: &Query) -> Result<usize, Status> {
    let asked = query.int("limit")?.unwrap_or(0);
    let cached = query.text("resourceVersion") == "0";
    Ok(if cached { 0 } else { usize::try_from(asked).unwrap_or(0) })
}

/// The page that the request selects, as it is stored; for verbs that act on a collection.
pub async fn selected_page(call: &Call, kind: &Arc<KindDef>) -> Result<Page, Status> {
    let selection = Selection::read(call, kind)?;
    page(call, kind, &selection, limit(&call.query)?).await
}

pub struct Page {
    pub entries: Vec<Arc<Entry>>,
    pub revision: Revision,
    pub token: String,
    pub remaining: Option<i64>,
}

async fn page(
    call: &Call,
    kind: &Arc<KindDef>,
    selection: &Selection,
    limit: usize,
) -> Result<Page, Status> {
    let mut request = first_request(call, selection)?;
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    loop {
        // With a selector, one more than is left is read in chunks until the page is full.
        let wanted = match (limit, selection.is_everything()) {
            (0, _) => None,
            (limit, true) => Some(limit - entries.len()),
            (_, false) => Some(CHUNK),
        };
        request.limit = wanted;
        let found =
            call.server.store.range(request.clone()).await.map_err(|error| expired(call, error))?;
        check_not_older(call, found.revision)?;
        request.at = Some(found.revision);
        let (more, last) = (found.more(), found.entries.last().cloned());
        let (read, remaining) = (found.entries.len(), found.remaining);
        let chosen = objects::selected(&call.server, kind, selection, found.entries).await?;
        for entry in chosen {
            let at_end = !more && last.as_ref().is_some_and(|last| last.key == entry.key);
            entries.push(entry.clone());
            if limit > 0 && entries.len() == limit && !at_end {
                let left = selection.is_everything().then(|| (remaining + read - limit) as i64);
                return Ok(full_page(selection, entries, found.revision, &entry.key, left));
            }
        }
        match last {
            Some(last) if more => {
                request.range = request.range.clone().starting_at(last.key.successor())
            }
            _ => {
                return Ok(Page {
                    entries,
                    revision: found.revision,
                    token: String::new(),
                    remaining: None,
                });
            }
        }
    }
}

fn full_page(
    selection: &Selection,
    entries: Vec<Arc<Entry>>,
    revision: Revision,
    last: &str,
    remaining: Option<i64>,
) -> Page {
    let start = format!("{}\0", last.strip_prefix(&selection.prefix).unwrap_or(last));
    Page { entries, revision, token: ContinueToken::new(revision, &start).encode(), remaining }
}

fn first_request(call: &Call, selection: &Selection) -> Result<RangeRequest, Status> {
    let request = RangeRequest::new(selection.range.clone());
    let text = call.query.text("continue");
    if text.is_empty() {
        return Ok(match AtRevision::read(&call.query)? {
            AtRevision::Exact(revision) => request.at(revision),
            AtRevision::Newest | AtRevision::NotOlderThan(_) => request,
        });
    }
    let token = ContinueToken::decode(text)?;
    if !matches!(call.query.text("resourceVersion"), "" | "0") {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let start = token.start.strip_prefix('/').unwrap_or(&token.start);
    let range = selection.range.clone().starting_at(format!("{}{start}", selection.prefix));
    let request = RangeRequest::new(range);
    // A negative revision means: go on from here with whatever is newest.
    Ok(match u64::try_from(token.rv) {
        Ok(revision) => request.at(Revision(revision)),
        Err(_) => request,
    })
}

/// The newest state must not be older than what the client has seen.
fn check_not_older(call: &Call, shown: Revision) -> Result<(), Status> {
    match AtRevision::read(&call.query)? {
        AtRevision::NotOlderThan(asked) if asked > shown => {
            Err(objects::store_status(skiff_store::Error::FutureRevision {
                requested: asked,
                current: shown,
            }))
        }
        _ => Ok(()),
    }
}

/// An old continue token comes back with one that goes on without a consistent view.
fn expired(call: &Call, error: skiff_store::Error) -> Status {
    let compacted = matches!(error, skiff_store::Error::Compacted { .. });
    let Ok(token) = ContinueToken::decode(call.query.text("continue")) else {
        return at_once(objects::store_status(error));
    };
    if !compacted {
        return objects::store_status(error);
    }
    let fresh = ContinueToken { rv: -1, ..token };
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    let mut status = Status::new(410, Reason::Expired, message);
    status.continue_token = Some(fresh.encode());
    status
}

/// A revision that is asked for exactly is not worth waiting for.
fn at_once(mut status: Status) -> Status {
    if let Some(details) = &mut status.details {
        details.retry_after_seconds = 0;
    }
    status
}
