//! The doors of the node, tested from outside: real sockets, a real pipeline, scripted back ends.

mod chat;
mod client;
mod ingress;
mod load;
mod node;
mod rest;
mod stopping;
mod stream;
