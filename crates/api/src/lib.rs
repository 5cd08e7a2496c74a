//! Kubernetes kinds as data: schema, codecs, defaulting, validation, patch, apply, tables, OpenAPI.
