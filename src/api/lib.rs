//! axum routers, error table, ingress
