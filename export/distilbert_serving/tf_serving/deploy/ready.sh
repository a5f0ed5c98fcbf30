#!/bin/bash
# ready.sh PORT MODEL: succeeds if a version of the model is AVAILABLE, as GetModelStatus says.
#
# Over REST, TF Serving answers GET /v1/models/MODEL with 200 whatever the state is, so the answer
# has to be read; and its CPU image has bash and grep for that, but no curl.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
timeout 3 cat <&3 | grep -q '"state": *"AVAILABLE"'
