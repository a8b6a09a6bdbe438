//! What peerd does between hosts: one file for each behaviour.

mod bad_input;
mod bad_line;
mod capacity;
mod crash;
mod cuts;
mod disk;
mod dns_hostile;
mod dns_protocol;
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
mod sabotage;
mod spoofing;
mod stop;
mod survival;
mod verbs;
mod visibility;
