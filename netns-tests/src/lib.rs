//! Hosts, containers and cables in network namespaces, and what the tests do with them.
