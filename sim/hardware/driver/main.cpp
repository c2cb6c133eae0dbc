// Runs one program on the Verilated tile against a model of DRAM, without any test-bench language.
//
//   tile key=value...     keys: dram (initial image), out (folder), program_addr, latency, bus_bytes, max_cycles,
//                         counters (how many to read), seed, stall (0..1000, per mille; 0 = reference DRAM)
//
// Cycle t is: inputs are set, the clock changes, outputs are sampled. The model has registers for its inputs
// (sim/hardware/verilated), which show those of cycle t from that change on. With stall = 0 every request is
// accepted at once and answered exactly `latency` cycles later. With stall > 0 a request port is ready, and a due
// response is delivered, with probability 1 - stall/1000 per cycle, in order per port.
//
// Written to `out`: dram.bin (final image), trace.bin (records of cycle and bits, for cycles with any bit) and
// status.txt (key value lines; `error` when DRAM was addressed out of range). Exit status 0 unless a file fails.

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "Vtile.h"
#include "ports.h"  // TILE_<port>: member of Vtile for every port used here
#include "verilated.h"

namespace {

std::map<std::string, std::string> options;

std::string text(const char* key) {
    auto found = options.find(key);
    if (found == options.end()) {
        std::fprintf(stderr, "missing %s=\n", key);
        std::exit(2);
    }
    return found->second;
}

uint64_t number(const char* key) { return std::strtoull(text(key).c_str(), nullptr, 10); }

std::FILE* open_file(const std::string& path, const char* mode) {
    std::FILE* file = std::fopen(path.c_str(), mode);
    if (!file) {
        std::perror(path.c_str());
        std::exit(2);
    }
    return file;
}

class Random {  // xorshift64*
  public:
    explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252u) {}
    bool below(uint64_t per_mille) {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return ((state_ * 2685821657736338717u) >> 33) % 1000 < per_mille;
    }

  private:
    uint64_t state_;
};

struct Response {
    uint64_t due;
    std::vector<uint8_t> data;  // of a read
};

struct Record {
    uint64_t cycle;
    uint64_t bits;
};

class Bench {
  public:
    Bench() : random_(number("seed")), stall_(number("stall")), latency_(number("latency")),
              bus_(number("bus_bytes")), out_(text("out")) {
        std::FILE* file = open_file(text("dram"), "rb");
        std::fseek(file, 0, SEEK_END);
        dram_.resize(std::ftell(file));
        std::rewind(file);
        if (std::fread(dram_.data(), 1, dram_.size(), file) != dram_.size()) std::exit(2);
        std::fclose(file);
        top_->TILE_rst = 1;
        for (int i = 0; i < 4; ++i) clock();
        top_->TILE_rst = 0;
    }

    void run() {
        const uint64_t limit = number("max_cycles");
        top_->TILE_program_addr = number("program_addr");
        uint64_t t = 0;
        bool done = false;
        for (; t < limit && !done && error_.empty(); ++t) {
            top_->TILE_start = t == 0;
            drive(t);
            clock();
            done = sample(t);
        }
        top_->TILE_start = 0;
        clock();
        write(t, done);
    }

  private:
    void clock() {
        top_->TILE_clk = !top_->TILE_clk;
        top_->eval();
    }

    bool go() { return stall_ == 0 || !random_.below(stall_); }

    bool due(const std::deque<Response>& queue, uint64_t t) { return !queue.empty() && queue.front().due <= t && go(); }

    void drive(uint64_t t) {
        top_->TILE_rd_req_ready = go();
        top_->TILE_wr_req_ready = go();
        top_->TILE_rd_rsp_valid = 0;
        if (due(reads_, t)) {
            top_->TILE_rd_rsp_valid = 1;
            std::memcpy(&top_->TILE_rd_rsp_data, reads_.front().data.data(), bus_);
            reads_.pop_front();
        }
        top_->TILE_wr_rsp_valid = 0;
        if (due(writes_, t)) {
            top_->TILE_wr_rsp_valid = 1;
            writes_.pop_front();
        }
    }

    // The last beat may reach past the end of a DRAM whose size is not a multiple of the bus.
    bool in_range(const char* kind, uint64_t address) {
        if (address % bus_ == 0 && address < dram_.size()) return true;
        error_ = std::string(kind) + " address " + std::to_string(address);
        return false;
    }

    bool sample(uint64_t t) {
        if (top_->TILE_rd_req_valid && top_->TILE_rd_req_ready && in_range("read", top_->TILE_rd_req_addr)) {
            const uint64_t address = top_->TILE_rd_req_addr;
            Response response{t + latency_, std::vector<uint8_t>(bus_)};
            for (uint64_t i = 0; i < bus_ && address + i < dram_.size(); ++i) response.data[i] = dram_[address + i];
            reads_.push_back(response);
        }
        if (top_->TILE_wr_req_valid && top_->TILE_wr_req_ready && in_range("write", top_->TILE_wr_req_addr)) {
            const uint64_t address = top_->TILE_wr_req_addr;
            std::vector<uint8_t> data(bus_);
            std::memcpy(data.data(), &top_->TILE_wr_req_data, bus_);
            const uint64_t strobe = top_->TILE_wr_req_strb;
            for (uint64_t i = 0; i < bus_; ++i) {
                if (!(strobe >> i & 1)) continue;
                if (address + i >= dram_.size()) error_ = "write address " + std::to_string(address + i);
                else dram_[address + i] = data[i];
            }
            writes_.push_back({t + latency_, {}});
        }
        const uint64_t bits = (top_->TILE_trace_dispatch & 1u) | (top_->TILE_trace_issue & 15u) << 1 |
                              (top_->TILE_trace_rd & 15u) << 5 | (top_->TILE_trace_wr & 15u) << 9;
        if (bits) trace_.push_back({t, bits});
        return top_->TILE_done;
    }

    void write(uint64_t cycles, bool done) {
        std::FILE* file = open_file(out_ + "/status.txt", "w");
        std::fprintf(file, "done %d\ncycles %" PRIu64 "\n", done ? 1 : 0, cycles);
        std::fprintf(file, "conflict %d\nillegal %d\n", int(top_->TILE_conflict), int(top_->TILE_illegal));
        std::fprintf(file, "status %d\n", int(top_->TILE_status_inexact) | int(top_->TILE_status_overflow) << 1 |
                                               int(top_->TILE_status_nan) << 2 | int(top_->TILE_status_inf) << 3);
        if (!error_.empty()) std::fprintf(file, "error %s\n", error_.c_str());
        const uint64_t counters = number("counters");
        for (uint64_t k = 0; k < counters; ++k) {
            top_->TILE_counter_select = k;
            for (int i = 0; i < 3; ++i) clock();
            std::fprintf(file, "counter %" PRIu64 "\n", uint64_t(top_->TILE_counter_value));
        }
        std::fclose(file);
        file = open_file(out_ + "/trace.bin", "wb");
        std::fwrite(trace_.data(), sizeof(Record), trace_.size(), file);
        std::fclose(file);
        file = open_file(out_ + "/dram.bin", "wb");
        const size_t written = std::fwrite(dram_.data(), 1, dram_.size(), file);
        if (std::fclose(file) != 0 || written != dram_.size()) std::exit(2);
    }

    std::unique_ptr<Vtile> top_{new Vtile};
    Random random_;
    uint64_t stall_, latency_, bus_;
    std::string out_, error_;
    std::vector<uint8_t> dram_;
    std::vector<Record> trace_;
    std::deque<Response> reads_, writes_;
};

}  // namespace

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const size_t equals = argument.find('=');
        if (equals == std::string::npos) {
            std::fprintf(stderr, "expected key=value, got %s\n", argv[i]);
            return 2;
        }
        options[argument.substr(0, equals)] = argument.substr(equals + 1);
    }
    Bench bench;
    bench.run();
    return 0;
}
