//! One request on its way through the path: everything the stages after authentication read.
//!
//! Counterpart: the `context.Context` values of upstream's handler chain.

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use serde_json::Value;
use skiff_api::codec::{self, Decoded, Format, Target};
use skiff_api::field::{ErrorList, Path};
use skiff_api::kinds::legacy::is_legacy;
use skiff_api::patch::Strictness;
use skiff_api::{GroupKind, KindDef, Status};

use crate::audit::Trail;
use crate::negotiate::{Endpoint, Media};
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::reviews;
use crate::server::Server;
use crate::user::UserInfo;

pub struct Call {
    pub server: Arc<Server>,
    pub user: UserInfo,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where the request is recorded, if it is.
    pub trail: Option<Arc<Trail>>,
    /// Whoever asks has no use for word of who owns which field, which is half of many an object.
    pub lean: bool,
    warnings: Mutex<Vec<String>>,
    /// The kind of the path, once somebody has asked.
    kind: OnceLock<Option<Arc<KindDef>>>,
}

/// What a write asks for beside its object.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// Who owns the fields that are written.
    pub manager: String,
    pub validation: FieldValidation,
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub fn strictness(self) -> Strictness {
        match self {
            FieldValidation::Ignore => Strictness::Ignore,
            FieldValidation::Warn => Strictness::Report,
            FieldValidation::Strict => Strictness::Refuse,
        }
    }
}

const MAX_MANAGER: usize = 128;

// === impl Call ===

impl Call {
    pub fn new(
        server: Arc<Server>,
        user: UserInfo,
        info: RequestInfo,
        query: Query,
        headers: HeaderMap,
        body: Bytes,
        trail: Option<Arc<Trail>>,
    ) -> Call {
        Call {
            server,
            user,
            info,
            query,
            headers,
            body,
            trail,
            lean: false,
            warnings: Mutex::default(),
            kind: OnceLock::new(),
        }
    }

    pub fn header(&self, name: http::header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Adds a `Warning` header to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock().expect("no panic while held");
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().expect("no panic while held"))
    }

    /// The body as an order or a question, which is never stored; findings are handled as the client asked.
    pub fn decode_order(&self, target: &Target<'_>) -> Result<Value, Status> {
        let validation = self.write_options("CreateOptions")?.validation;
        let decoded = codec::decode(&self.body, self.body_format()?, target)?;
        self.accept(decoded, target, validation)
    }

    /// Strict findings refuse, warn or pass.
    pub fn accept(
        &self,
        decoded: Decoded,
        target: &Target<'_>,
        validation: FieldValidation,
    ) -> Result<Value, Status> {
        match validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => {
                decoded.strict.iter().for_each(|finding| self.warn(finding.as_str()))
            }
            FieldValidation::Strict => {
                if let Some(refused) = target.strict_error(&decoded.strict) {
                    return Err(refused);
                }
            }
        }
        Ok(decoded.object)
    }

    /// The kind that the path names, at the version it names.
    pub fn kind(&self) -> Result<Arc<KindDef>, Status> {
        let find = || {
            let info = &self.info;
            self.server.kinds().get(&info.group, &info.version, &info.resource).cloned()
        };
        self.kind.get_or_init(find).clone().ok_or_else(Status::no_such_path)
    }

    /// The representation the client wants, if the endpoint has it.
    pub fn media(&self) -> Option<Media> {
        let endpoint = match (self.info.is_resource, self.info.path.as_str()) {
            (true, _) => {
                let kind = self.kind().ok();
                let custom = kind.as_ref().is_some_and(|kind| kind.custom || is_legacy(kind));
                let tables = kind.is_none_or(|kind| self.shows_tables(&kind));
                Endpoint::Resource { protobuf: !custom, tables }
            }
            (false, "/api" | "/apis" | "/api/" | "/apis/") => Endpoint::Discovery,
            _ => Endpoint::Plain,
        };
        Media::negotiate(self.header(ACCEPT), &self.query, endpoint)
    }

    fn shows_tables(&self, kind: &KindDef) -> bool {
        let without = kind.strategy.without_tables();
        !without.contains(&self.info.subresource.as_str()) && reviews::of(kind).is_none()
    }

    /// The representation of an error, which is JSON to a client that wants what no error can be.
    pub fn error_media(&self) -> Media {
        Media::negotiate(self.header(ACCEPT), &self.query, Endpoint::Plain).unwrap_or(Media::JSON)
    }

    /// The format of the body; `allowed` is what the refusal lists.
    pub fn body_format(&self) -> Result<Format, Status> {
        let given = self.header(CONTENT_TYPE);
        if given.is_empty() {
            return Ok(Format::Json);
        }
        Format::of_media_type(given).ok_or_else(|| {
            const ACCEPTED: &str =
                "application/json, application/yaml, application/vnd.kubernetes.protobuf";
            unsupported_media_type(given, ACCEPTED)
        })
    }

    /// `kind` is the name of the options type: CreateOptions, UpdateOptions or PatchOptions.
    pub fn write_options(&self, kind: &str) -> Result<WriteOptions, Status> {
        let mut errors = ErrorList::default();
        let dry_run: Vec<&str> = self.query.all("dryRun").collect();
        check_dry_run(&dry_run, &mut errors);
        let manager = self.query.text("fieldManager");
        check_manager(manager, &mut errors);
        if kind == "PatchOptions" {
            self.check_patch_options(manager, &mut errors);
        }
        let validation = self.field_validation(&mut errors);
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors));
        }
        Ok(WriteOptions {
            dry_run: !dry_run.is_empty(),
            manager: self.manager(manager),
            validation,
            force: self.query.flag("force"),
        })
    }

    /// Applying needs a manager's name; forcing needs someone to force.
    fn check_patch_options(&self, manager: &str, errors: &mut ErrorList) {
        let apply = self.header(CONTENT_TYPE).starts_with("application/apply-patch");
        if apply && manager.is_empty() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        if !apply && self.query.has("force") {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
    }

    fn field_validation(&self, errors: &mut ErrorList) -> FieldValidation {
        match self.query.text("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                );
                FieldValidation::Warn
            }
        }
    }

    /// The manager that is named, else the program's name from its user agent.
    fn manager(&self, named: &str) -> String {
        if !named.is_empty() {
            return named.to_owned();
        }
        let program = self.header(USER_AGENT).split('/').next().unwrap_or_default();
        match program {
            "" => "unknown".to_owned(),
            _ => program.chars().filter(|c| !c.is_control()).take(MAX_MANAGER).collect(),
        }
    }
}

/// `dryRun` is absent or `All`.
pub fn check_dry_run(values: &[&str], errors: &mut ErrorList) {
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(&Path::new("dryRun"), values.to_vec(), &["All"]);
    }
}

fn check_manager(manager: &str, errors: &mut ErrorList) {
    let path = Path::new("fieldManager");
    if manager.len() > MAX_MANAGER {
        errors.too_long(&path, MAX_MANAGER);
    }
    if let Some((at, bad)) = manager.chars().enumerate().find(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(bad));
        errors.invalid(&path, manager, why);
    }
}

pub fn unsupported_media_type(given: &str, accepted: &str) -> Status {
    let shown = given.split(';').next().unwrap_or_default().trim();
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    );
    tracing::debug!(content_type = shown, "refused a media type");
    Status::new(415, skiff_api::Reason::UnsupportedMediaType, message)
}
