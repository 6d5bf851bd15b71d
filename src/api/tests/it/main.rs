//! The doors of the node, tested from outside: real sockets, a real pipeline, scripted back ends.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod anthropic;
mod chat;
mod client;
mod gateway;
mod gateway_attacks;
mod gateway_h2;
mod gateway_limits;
mod gateway_service;
mod gateway_tls;
mod gemini;
mod ingress;
mod load;
mod moderations;
mod node;
mod ollama;
mod prompts;
mod ranking;
mod reading;
mod rest;
mod rights;
mod sign_in;
mod stopping;
mod stream;
