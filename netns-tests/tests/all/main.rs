//! What peerd does between hosts: one file for each behaviour.

mod bad_input;
mod capacity;
mod crash;
mod cuts;
mod dns_hostile;
mod dns_protocol;
mod down;
mod expel;
mod forwarding;
mod hostile;
mod interface;
mod isolation;
mod leave;
mod libraries;
mod looking;
mod names;
mod reach;
mod restart;
mod rig;
mod run;
mod spoofing;
mod stop;
mod verbs;
mod visibility;
