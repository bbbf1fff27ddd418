#!/bin/sh
# up.sh: one instance of Quern on this machine, started or healed, and a first job run in it. `make up` calls it.
# From the environment: BUILD (where the programs are), STATE (the directory that holds the instance); and, where they differ from
# the settings, PORT, WORKERS, API_CHILDREN; SETTINGS (a file that wins over what is written here); OPENAI_BASE_URL,
# OPENAI_API_KEY and OPENAI_MODEL.
set -eu
cd "$(dirname "$0")/.."
umask 077
ctl=${BUILD:-build}/quernctl
state=${STATE:-var}
no_key_for_others() { unset OPENAI_API_KEY; } # it reaches workers by a file; nobody else needs it

fail() {
    printf 'up: %s\n' "$*" >&2
    exit 1
}

mkdir -p "$state"
state=$(cd "$state" && pwd)
settings=$state/quern.yaml

yaml() { # a text between double quotes
    printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"
}

fetch() { # fetch SECONDS URL; never through a proxy: only for this machine
    curl -sS --noproxy '*' -m "$@"
}

# --- the provider ---

ollama=http://127.0.0.1:11434/v1

first_model() { # of a list of models, OpenAI's way, on standard input
    tr ',' '\n' | tr '{' '\n' | sed -n 's/^ *"id" *: *"\([^"]*\)".*/\1/p' | head -n 1
}

echo_settings() {
    echo 'deployments: [{name: echo, provider: echo}]'
    echo 'routes: [{name: "*", deployments: [echo]}]'
}

# provider_settings NAME BASE_URL MODEL KEY_FILE: callers' own model names are passed on; MODEL is for jobs that name none.
provider_settings() {
    echo "credentials:"
    echo "  - {name: $1, base_url: $(yaml "$2"), key_file: $(yaml "$4")}"
    echo "deployments:"
    echo "  - {name: $1, provider: openai, credential: $1}"
    [ -z "$3" ] || echo "  - {name: $1-default, provider: openai, credential: $1, model: $(yaml "$3")}"
    echo "routes:"
    echo "  - {name: \"*\", deployments: [$1]}"
    [ -z "$3" ] || echo "  - {name: default, deployments: [$1-default]}"
}

openai_models() { # the key goes to curl by its standard input, not by its arguments
    printf 'header = "Authorization: Bearer %s"\n' "${OPENAI_API_KEY:-}" |
        curl -fsS -m 10 -K - "$1/models" 2>/dev/null || true
}

choose_openai() {
    base=${OPENAI_BASE_URL%/}
    case $base in */v1) ;; *) echo "up: note: OPENAI_BASE_URL usually ends in /v1" ;; esac
    key_file=
    if [ -n "${OPENAI_API_KEY:-}" ]; then
        key_file=$state/openai.key
        printf '%s\n' "$OPENAI_API_KEY" >"$key_file"
    fi
    model=${OPENAI_MODEL:-}
    if [ -z "$model" ]; then
        models=$(openai_models "$base")
        case $models in *'"gpt-4o-mini"'*) model=gpt-4o-mini ;; *) model=$(printf '%s' "$models" | first_model) ;; esac
    fi
    chosen="openai at $base, model ${model:-as named by the caller} (OPENAI_BASE_URL)"
    provider_settings openai "$base" "$model" "$key_file" >>"$settings.new"
}

choose_provider() {
    if [ -n "${OPENAI_BASE_URL:-}" ]; then
        choose_openai
        return
    fi
    [ -z "${OPENAI_API_KEY:-}" ] || echo "up: note: OPENAI_API_KEY is used only with OPENAI_BASE_URL"
    model=$(fetch 1 -f "$ollama/models" 2>/dev/null | first_model)
    if [ -n "$model" ]; then
        chosen="Ollama on this machine, model $model"
        provider_settings ollama "$ollama" "$model" "" >>"$settings.new"
    else
        chosen="echo, which answers with the prompt (no OPENAI_BASE_URL, no Ollama with a model on this machine)"
        echo_settings >>"$settings.new"
    fi
}

write_settings() {
    {
        echo "# Written by systemd/up.sh at every start; your own settings: make up SETTINGS=file"
        echo "# provider: see below"
        echo "quern: {state_dir: $(yaml "$state")}"
    } >"$settings.new"
    choose_provider
    sed -i "2s|.*|# provider: $(printf '%s' "$chosen" | sed 's/[\\&|]/\\&/g')|" "$settings.new"
    mv "$settings.new" "$settings"
}

# --- the instance ---

logs() {
    for log in run redis broker worker api; do
        [ -s "$state/logs/$log.log" ] || continue
        echo "--- $state/logs/$log.log" >&2
        tail -n 8 "$state/logs/$log.log" >&2
    done
}

# A port that somebody else has is told at once, not after 30 s. Where an instance was killed, its api may still be about to end.
check_port() {
    [ -z "${SETTINGS:-}" ] || [ -n "${PORT:-}" ] || return 0
    [ ! -e "$state/run/api.pid" ] || return 0
    answer=0
    fetch 1 -o /dev/null "http://127.0.0.1:${PORT:-8080}/" 2>/dev/null || answer=$?
    [ $answer = 7 ] || [ "${PORT:-8080}" = 0 ] || fail "port ${PORT:-8080} is in use by another program; take another: PORT=…"
}

start() {
    check_port
    write_settings
    no_key_for_others
    set -- --state "$state" --daemon --settings "$settings"
    [ -z "${SETTINGS:-}" ] || set -- "$@" --settings "$SETTINGS"
    [ -z "${PORT:-}" ] || set -- "$@" --port "$PORT"
    [ -z "${WORKERS:-}" ] || set -- "$@" --workers "$WORKERS"
    [ -z "${API_CHILDREN:-}" ] || set -- "$@" --api-children "$API_CHILDREN"
    status=0
    "$ctl" run "$@" >/dev/null || status=$?
    [ $status = 0 ] && return
    [ $status = 2 ] || logs
    fail "Quern did not get ready (exit status $status)"
}

url() {
    port=$(cat "$state/run/api.port" 2>/dev/null) && echo "http://127.0.0.1:$port"
}

is_ready() {
    here=$(url) && fetch 2 -f -o /dev/null "$here/readyz" 2>/dev/null
}

wait_ready() {
    tries=300
    until is_ready; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

if "$ctl" run --state "$state" --alive >/dev/null; then
    no_key_for_others
    wait_ready || {
        logs
        fail "$state runs, but is not ready within 30 s"
    }
    [ -z "${PORT:-}" ] || [ "${PORT}" = 0 ] || [ "$(url)" = "http://127.0.0.1:$PORT" ] ||
        fail "$state runs already, at $(url); first: make down STATE=$state"
    echo "up: runs already in $state; provider: $(sed -n '2s/^# provider: //p' "$settings" 2>/dev/null)"
else
    start
    echo "up: provider: $chosen"
fi

# --- the first job ---

here=$(url)
reply=$(fetch 40 -H 'Content-Type: application/json' -d '{"prompt":"hello"}' "$here/v1/jobs?wait=30s") ||
    { logs; fail "the first job was not answered"; }
status=$(printf '%s' "$reply" | grep -o '"status" *: *"[a-z]*"' | head -n 1 | cut -d '"' -f 4)
case $status in
completed)
    answer=$(printf '%s' "$reply" | grep -o '"content" *: *"\([^"\\]\|\\.\)*"' | head -n 1 | sed 's/^"content" *: *//')
    printf 'up: first job: "hello" -> %s\n' "${answer:-$reply}"
    ;;
pending | processing | retrying)
    printf 'up: the first job still runs (%s): %s\n' "$status" "$reply"
    ;;
*)
    logs
    fail "the first job did not succeed: $reply"
    ;;
esac

given=$state
[ "$state" != "$PWD/var" ] || given=
cat <<EOF

  jobs      $here/v1/jobs
  health    $here/health
  logs      $state/logs/

Try next:
  curl -s '$here/v1/jobs?wait=30s' -H 'Content-Type: application/json' -d '{"prompt":"Why is the sky blue?"}'
  $ctl --settings $settings stats
Stop it: make down${given:+ STATE=$given}

EOF
echo "ready $here"
