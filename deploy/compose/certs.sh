#!/bin/sh
# Makes an authority and the certificates of compose.yaml in ./certs (or in the folder given). For trying it out:
# the keys are readable by everybody here, because the containers run under a user of their own; and one authority
# signs operators and workers, so that a worker's certificate opens the admin API too. In production use two.
#
#   ./certs.sh [FOLDER]
set -eu
folder=${1:-"$(dirname "$0")/certs"}
mkdir -p "$folder"
cd "$folder"

# A second run keeps the authority, so that what it has signed stays good.
if [ ! -f ca.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -sha256 \
        -subj "/CN=ntonix test authority" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout ca.key -out ca.pem 2>/dev/null
fi

# certificate NAME USE ALTERNATIVE_NAMES: NAME becomes the common name, by which the control plane knows a caller.
certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 \
        -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'basicConstraints=CA:FALSE\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$2" "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 -sha256 \
        -extfile "$1.ext" -out "$1.pem" 2>/dev/null
    rm -f "$1.csr" "$1.ext"
    chmod 0644 "$1.key"
}

certificate control-plane serverAuth "DNS:control-plane,DNS:localhost,IP:127.0.0.1"
certificate gateway serverAuth "DNS:gateway,DNS:localhost,IP:127.0.0.1"
certificate worker-1 clientAuth "DNS:worker-1"
certificate operator clientAuth "DNS:operator"
echo "$folder: authority, control-plane, gateway, worker-1, operator"
