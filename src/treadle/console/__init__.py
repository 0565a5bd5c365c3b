"""The team's console in a browser: what answers, what was made, what it cost, and the people's part of it all."""
