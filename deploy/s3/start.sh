#!/bin/sh
# SeaweedFS with an S3 API, two buckets and one account for each: MLflow writes `mlflow`, projects write `project` (the
# DVC remote, media and caches). Arguments: the data folder, the address to listen on.
set -eu
data=$1 address=$2
port=${S3_PORT:-8333} master=${S3_MASTER_PORT:-9333} volume=${S3_VOLUME_PORT:-8080} filer=${S3_FILER_PORT:-8888}
umask 077
run=$(mktemp -d)

for value in "$MLFLOW_S3_KEY" "$MLFLOW_S3_SECRET" "$PROJECT_S3_KEY" "$PROJECT_S3_SECRET"; do
    case $value in
        "" | *[!A-Za-z0-9_+/=.-]*) echo "S3 keys and secrets: expected letters, digits and _+/=.- only" >&2; exit 2 ;;
    esac
done

account() {
    printf '{"name":"%s","credentials":[{"accessKey":"%s","secretKey":"%s"}],' "$1" "$2" "$3"
    printf '"actions":["Read:%s","Write:%s","List:%s","Tagging:%s"]}' "$1" "$1" "$1" "$1"
}
{
    printf '{"identities":['
    account mlflow "$MLFLOW_S3_KEY" "$MLFLOW_S3_SECRET"
    printf ','
    account project "$PROJECT_S3_KEY" "$PROJECT_S3_SECRET"
    printf ']}'
} >"$run/accounts.json"
unset MLFLOW_S3_SECRET PROJECT_S3_SECRET

# Buckets are made through the master, once it answers; a bucket that exists is left alone.
make_buckets() {
    until printf 's3.bucket.list\n' | weed shell -master="127.0.0.1:$master.$((master + 10000))" >"$run/buckets" 2>/dev/null &&
        grep -q '^  *mlflow' "$run/buckets" && grep -q '^  *project' "$run/buckets"; do
        printf 's3.bucket.create -name mlflow\ns3.bucket.create -name project\n' |
            weed shell -master="127.0.0.1:$master.$((master + 10000))" >/dev/null 2>&1 || true
        sleep 0.5
    done
}
make_buckets &

# Only the S3 port listens on the given address; the other parts have no access control of their own.
exec weed -logtostderr=true server -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
    -master.port="$master" -master.port.grpc=$((master + 10000)) -master.volumeSizeLimitMB=1024 \
    -volume.port="$volume" -volume.port.grpc=$((volume + 10000)) -volume.max=0 -volume.preStopSeconds=0 \
    -filer -filer.port="$filer" -filer.port.grpc=$((filer + 10000)) -filer.localSocket="$run/filer.sock" \
    -s3 -s3.port="$port" -s3.port.grpc=$((port + 10000)) -s3.ip.bind="$address" -s3.config="$run/accounts.json" \
    -s3.localSocket="$run/s3.sock" -s3.port.iceberg=0 -s3.port.lance=0
