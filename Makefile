# make test   what CI runs: installs what the tests need, checks, and runs all but the longest
# make build  bin/mqgate
# make fuzz   every fuzz target for FUZZTIME each (1m)
# make chaos  every fault on a cluster: nodes killed for CHAOS (30m), cut off, stopped, without disk

GO       ?= go
FUZZTIME ?= 1m
SMOKE    ?= 1s
CHAOS    ?= 30m
TIMEOUT  ?= 20m

.PHONY: all build test install fmt vet staticcheck race fuzz smoke chaos clean

all: build

build:
	$(GO) build -o bin/mqgate ./cmd/mqgate

# The tests come last: what they print is the end of the output.
test: install fmt vet staticcheck smoke race

# What the tests run besides Go: clients in other languages, a browser, Node, HAProxy.
install:
	./.ci/install

fmt:
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted; run gofmt -w on:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...

staticcheck:
	$(GO) tool staticcheck ./...

# Those with several nodes begin first: they wait more than they compute, five minutes for killed nodes alone.
race:
	$(GO) test -race -p 3 -timeout $(TIMEOUT) ./integration/cluster ./...

smoke:
	./.ci/fuzz $(SMOKE)

fuzz:
	./.ci/fuzz $(FUZZTIME)

chaos: install
	MQGATE_TEST_CLUSTER=1 MQGATE_TEST_CHAOS=$(CHAOS) $(GO) test -v -count=1 -timeout 2h ./integration/cluster

clean:
	rm -rf bin
