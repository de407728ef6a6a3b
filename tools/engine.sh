#!/usr/bin/env bash
# tools/engine.sh COMMAND...: runs a command with a container engine, the one that answers or one of its own.
#
# Its own: on Debian, as root, it installs docker.io and docker-compose where they are missing, starts dockerd with a
# folder and a socket apart from everything else, and takes all of it away at the end, the firewall's chains too.
# Where no base image can be pulled it makes a Debian 12 with debootstrap. Whether any of this can be had is found out
# by trying: if not, it says so in one sentence and exits with 0. Otherwise the exit status is the command's.
#   ENGINE_FOLDER   where its own engine keeps images (default: a new folder under build/, deleted at the end)
set -uo pipefail
cd "$(dirname "$0")/.."

MINUTES=${ENGINE_MINUTES:-25}
BASE=$(grep -m1 '^ARG BASE_IMAGE=' docker/Dockerfile)
BASE=${BASE#*=}  # by its digest
MADE=workshop-base:bookworm
NEEDED="docker.io docker-compose debootstrap iptables"
ours=""
certificates=()

skip() { echo "Containers are not tested here: $1."; exit 0; }
answers() { timeout 20 docker info --format '{{.ServerVersion}}' 2> /dev/null | grep -q '[0-9]'; }

install_engine() {
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || skip "no engine answers, and this user cannot install one"
    local missing=""
    for program in dockerd docker-compose debootstrap iptables; do
        command -v "$program" > /dev/null || missing=yes
    done
    if [ -n "$missing" ]; then
        echo "Installing a container engine"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086
        { timeout 120 apt-get update -qq && timeout 300 apt-get install -qqy --no-install-recommends $NEEDED; } \
            > "$log" 2>&1 || skip "no engine answers, and $NEEDED could not be installed"
        answers && return  # the package may have started it
    fi
    start_engine
}

start_engine() {
    if [ -n "${ENGINE_FOLDER:-}" ]; then folder=$ENGINE_FOLDER; else folder=$PWD/build/engine; fi
    mkdir -p "$folder"
    run=$(mktemp -d)  # a socket's path must be short
    forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
    for table in filter nat; do iptables-save -t "$table" > "$run/$table.before" 2> /dev/null; done
    local device
    device=$(ip -o route show default 2> /dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -1)
    local mtu
    mtu=$(cat "/sys/class/net/${device:-lo}/mtu" 2> /dev/null || echo 1500)
    [ "$mtu" -gt 1500 ] && mtu=1500
    export DOCKER_HOST=unix://$run/sock
    dockerd --data-root "$folder/data" --exec-root "$run/exec" --pidfile "$run/pid" --host "$DOCKER_HOST" \
        --mtu "$mtu" > "$log" 2>&1 &
    ours=$!
    for _ in $(seq 60); do
        answers && return
        kill -0 "$ours" 2> /dev/null || break
        sleep 1
    done
    skip "dockerd does not start on this machine ($(grep -E 'level=(fatal|error)|failed' "$log" | tail -1 | cut -c 1-200))"
}

stop_engine() {
    status=$?
    trap - EXIT
    [ "${#certificates[@]}" -gt 0 ] && rm -f "${certificates[@]}"
    if [ -n "$ours" ]; then
        if kill -0 "$ours" 2> /dev/null; then
            timeout 60 docker ps -q 2> /dev/null | xargs -r timeout 60 docker rm -f > /dev/null 2>&1
            timeout 60 docker network prune -f > /dev/null 2>&1
            kill "$ours"
            for _ in $(seq 30); do kill -0 "$ours" 2> /dev/null || break; sleep 1; done
        fi
        ip link delete docker0 2> /dev/null
        for table in filter nat; do iptables-restore -T "$table" < "$run/$table.before" 2> /dev/null; done
        echo "$forwarding" > /proc/sys/net/ipv4/ip_forward
        [ -n "${ENGINE_FOLDER:-}" ] || rm -rf "$folder"
        rm -rf "$run"
    fi
    exit "$status"
}

base_image() {
    docker image inspect "$BASE" > /dev/null 2>&1 && return
    docker image inspect "$MADE" > /dev/null 2>&1 || {
        timeout 60 docker pull -q "$BASE" > /dev/null 2>&1 && return
        echo "No image can be pulled: making a Debian 12 with debootstrap"
        command -v debootstrap > /dev/null || skip "no image can be pulled, and debootstrap is not installed"
        local root
        root=$(mktemp -d "$PWD/build/base-XXXXXX")
        chmod 755 "$root"
        timeout 300 debootstrap --variant=minbase bookworm "$root" > "$log" 2>&1 \
            && rm -f "$root"/var/cache/apt/archives/*.deb \
            && tar -C "$root" -c . | docker import - "$MADE" > /dev/null
        local made=$?
        rm -rf "$root"
        [ "$made" = 0 ] || skip "no image can be pulled, and debootstrap could not make one"
    }
    export BASE_IMAGE=$MADE
    # A machine that trusts more certificates than Debian's needs them while the image is built, too.
    for certificate in /usr/local/share/ca-certificates/*.crt; do
        [ -e "$certificate" ] && [ ! -e "docker/ca/$(basename "$certificate")" ] || continue
        cp "$certificate" docker/ca/ && certificates+=("docker/ca/$(basename "$certificate")")
    done
}

mkdir -p build
log=$PWD/build/engine.log
trap stop_engine EXIT
trap 'exit 130' INT TERM
command -v docker > /dev/null && answers || install_engine
# docker.io has neither of the newer builder's parts
docker buildx version > /dev/null 2>&1 || export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
base_image
timeout "$((MINUTES * 60))" "$@"
