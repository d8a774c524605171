-- Requests paths of the file that PATHS names, chosen at random.
local requests = {}

function init(args)
    math.randomseed(1)
    for path in io.lines(os.getenv("PATHS")) do
        requests[#requests + 1] = wrk.format("GET", path)
    end
end

function request()
    return requests[math.random(#requests)]
end
