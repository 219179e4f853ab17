--- The desk of a person: what one line leaves for the next, and how whoever sits there is answered. The prompt owns it;
--- generations, pools and chats put down what they made. A script has a desk, too, at which nobody looks.
return {
    interactive = false, -- whether generate and chat write what they make while they make it
    last = nil, -- the generation or the pool with which resume() goes on
    chat = nil, -- the chat that lines with > go to
}
