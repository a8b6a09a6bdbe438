# shellcheck shell=bash disable=SC2034,SC2154  # sourced by a rig that sets and reads these names
# peerd between two hosts of a measuring rig: one node and one container a host.
#
# The rig gives DIR (a scratch folder), MTU, UNDER_A and UNDER_B (the hosts' addresses), `bg HOST CMD...` (starts a
# daemon on host a or b) and `na`, `nb` (run a command there); it reads IP_A, IP_B, IF_A, IF_B. The hosts themselves are
# the containers, so that the rig's tools use the tunnel from where they are.
PEERCTL_BIN=${PEERCTL_BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/target/release/peerctl}
IF_A=peerd0 IF_B=peerd0

peer_version() { "$PEERCTL_BIN" version; }

peer_up() {
  local s under
  for s in a b; do
    [ $s = a ] && under=$UNDER_A || under=$UNDER_B
    bg $s "$PEERCTL_BIN" daemon --name "node-$s" --listen "$under:51790" --state-dir "$DIR/state-$s" \
      --socket "$DIR/run-$s/peerd.sock"
  done
  wait_file "$DIR/run-a/peerd.sock" && wait_file "$DIR/run-b/peerd.sock" || return 1
  ctl() { local host=$1; shift; "$PEERCTL_BIN" --quiet --socket "$DIR/run-$host/peerd.sock" "$@"; }
  ctl a init >/dev/null || return 1
  ctl a network create rig >/dev/null || return 1
  ctl a invite --network rig >"$DIR/token" || return 1
  ctl b join "@$DIR/token" >/dev/null || return 1
  IP_A=$(ctl a attach --netns /run/netns/pf-a --app rig --ifname $IF_A) || return 1
  IP_B=$(ctl b attach --netns /run/netns/pf-b --app rig --ifname $IF_B) || return 1
  [ "$MTU" = default ] || { ip -n pf-a link set $IF_A mtu "$MTU"; ip -n pf-b link set $IF_B mtu "$MTU"; }
}
